package postfix

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Running reports whether this Postfix runs: master(8) keeps its process id in the queue directory.
func (p *Postfix) Running() bool {
	b, err := os.ReadFile(filepath.Join(p.values["queue_directory"], "pid", "master.pid"))
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "master"
}

// Reloadable says why Postfix had better not be reloaded: where it logs with postlogd(8), and a
// parameter is set twice to different values, each of its processes warns of that when it starts.
// postlogd warns itself, and once its queue is full (net.unix.max_dgram_qlen) waits for itself to
// read, and all mail with it. Five such parameters were enough with Postfix 3.7 and 3.10, and one
// on a busy host.
func (p *Postfix) Reloadable() error {
	twice := p.setTwice()
	if len(twice) == 0 || !p.Running() {
		return nil
	}
	return fmt.Errorf("postfix: %s, and this Postfix logs with postlogd(8), which can stop over the warnings of that for good when it is reloaded, and all mail with it; take one of the lines out first, or say --no-reload and then restart Postfix: postfix stop, postfix start",
		twiceText(p.main.path, twice))
}

func twiceText(path string, twice []string) string {
	return path + " sets " + strings.Join(twice, ", ") + " more than once"
}

// setTwice are the parameters of main.cf that have several values, where postlogd(8) is used.
func (p *Postfix) setTwice() (names []string) {
	if p.values["maillog_file"] == "" || p.service(p.values["postlog_service_name"], "unix-dgram") == nil {
		return nil
	}
	set := map[string]string{}
	for _, l := range p.main.logicals() {
		name, value, _ := strings.Cut(l.text, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if was, there := set[name]; there && was != value && !slices.Contains(names, name) {
			names = append(names, name)
		}
		set[name] = value
	}
	return names
}

// Reload has Postfix read its configuration again.
func (p *Postfix) Reload(ctx context.Context) error {
	_, _, err := p.run(ctx, "postfix", "-c", p.Dir, "reload")
	if err != nil {
		return fmt.Errorf("%w (Postfix's log says why)", err)
	}
	return nil
}
