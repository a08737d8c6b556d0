package eventlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	// maxLine bounds a line in bytes; of a longer one nothing is read. mostPassed is how much of it
	// is passed over: a file without an end has no lines.
	maxLine    = 1 << 20
	mostPassed = 64 << 20
	// batchLines is how many lines are decoded at a time.
	batchLines = 512
)

// Line is a line of an event log.
type Line struct {
	// Number is from 1.
	Number int
	Event  Event
	// Err says why the line is no event.
	Err error
}

// Events reads an event log. Lines that are no events are in the sequence, too; the error is of
// what cannot be read on. Lines are decoded on all processors and come in their order.
func Events(r io.Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for d, err := range decoded(r, parseEvent) {
			if err != nil {
				yield(Line{}, fmt.Errorf("line %d: %w", d.number, err))
				return
			}
			if !yield(Line{d.number, d.is, d.err}, nil) {
				return
			}
		}
	}
}

func parseEvent(line []byte) (e Event, err error) {
	if err := json.Unmarshal(line, &e, Lenient); err != nil {
		return e, err
	}
	if e.Kind == "" || e.Time.IsZero() {
		return e, errors.New(`no "event", or no "time"`)
	}
	return e, nil
}

// Happened is the time of what the event is about: of a correction, that of the message.
func (e *Event) Happened() time.Time {
	if e.Corrected != nil {
		return e.Of.Time
	}
	return e.Time.Time
}

// parsed is what was made of a line.
type parsed[T any] struct {
	number int
	is     T
	err    error
}

// batch is some lines on their way from the reader through a decoder: text has one after the other,
// ends where each ends, and long are those that were too long. err is why it is the last.
type batch[T any] struct {
	text  []byte
	ends  []int
	long  []int
	first int
	lines []parsed[T]
	err   error
	done  chan struct{}
}

// decoded parses the lines of a file, on all processors, in their order. The sequence ends at the
// file's end, or with an error at the line that cannot be read.
func decoded[T any](r io.Reader, parse func([]byte) (T, error)) iter.Seq2[parsed[T], error] {
	return func(yield func(parsed[T], error) bool) {
		stop := make(chan struct{})
		defer close(stop)
		workers := runtime.GOMAXPROCS(0)
		work, ordered := make(chan *batch[T], workers), make(chan *batch[T], 2*workers)
		for range workers {
			go func() {
				for b := range work {
					b.decode(parse)
				}
			}()
		}
		go readBatches(r, stop, work, ordered)
		for b := range ordered {
			<-b.done
			for _, p := range b.lines {
				if !yield(p, nil) {
					return
				}
			}
			if b.err != nil {
				yield(parsed[T]{number: b.first + len(b.lines)}, b.err)
				return
			}
		}
	}
}

func readBatches[T any](r io.Reader, stop <-chan struct{}, work, ordered chan<- *batch[T]) {
	defer close(ordered)
	defer close(work)
	in := bufio.NewReaderSize(r, maxLine)
	number := 1
	for more := true; more; {
		b := &batch[T]{first: number, done: make(chan struct{})}
		for more && len(b.ends) < batchLines {
			more = b.take(in)
		}
		number += len(b.ends)
		for _, c := range []chan<- *batch[T]{ordered, work} {
			select {
			case c <- b:
			case <-stop:
				return
			}
		}
	}
}

// take takes a line, and reports whether there may be more.
func (b *batch[T]) take(in *bufio.Reader) (more bool) {
	line, err := in.ReadSlice('\n')
	for passed := 0; errors.Is(err, bufio.ErrBufferFull); passed += len(line) {
		if passed == 0 {
			b.long = append(b.long, len(b.ends))
		} else if passed > mostPassed {
			err = fmt.Errorf("longer than %d bytes", mostPassed)
			break
		}
		line, err = in.ReadSlice('\n')
	}
	tooLong := len(b.long) > 0 && b.long[len(b.long)-1] == len(b.ends)
	if errors.Is(err, io.EOF) && len(line) == 0 && !tooLong {
		return false
	} else if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
		return false
	}
	if !tooLong {
		b.text = append(b.text, bytes.TrimRight(line, "\r\n")...)
	}
	b.ends = append(b.ends, len(b.text))
	return err == nil
}

func (b *batch[T]) decode(parse func([]byte) (T, error)) {
	defer close(b.done)
	b.lines = make([]parsed[T], len(b.ends))
	begin := 0
	for i, end := range b.ends {
		p := &b.lines[i]
		p.number = b.first + i
		if slices.Contains(b.long, i) {
			p.err = fmt.Errorf("longer than %d bytes", maxLine)
			continue
		}
		p.is, p.err = parse(b.text[begin:end])
		begin = end
	}
}
