package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// usualWidth is how wide output is where there is no terminal, such as in a mail from cron.
const usualWidth = 80

// widthOf is how many columns a terminal has.
func widthOf(w io.Writer) int {
	if width := terminalWidth(w); width > 0 {
		return width
	}
	return usualWidth
}

// terminalWidth is the same, and 0 where there is no terminal.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 0
}

// isTerminal reports whether an input or output of the program is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress is a bar on a terminal, and silence elsewhere. A size below zero is one that is not
// known.
func progress(w io.Writer, what string, size int64, options ...progressbar.Option) *progressbar.ProgressBar {
	if !isTerminal(w) {
		w = io.Discard
	}
	// An interval would be kept by a goroutine of the library, which races with the bar.
	return progressbar.NewOptions64(size, append(options, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())...)
}
