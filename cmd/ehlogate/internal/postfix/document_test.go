package postfix

import (
	"strings"
	"testing"
)

func TestLogicalLines(t *testing.T) {
	d := newDocument("main.cf", "# comment\na = 1\n\n  , 2\n# in between\n\t, 3\nb=x\r\n  y\n\r  z\na = 4 # not a comment")
	var got []string
	for _, l := range d.logicals() {
		got = append(got, l.text)
	}
	if s := strings.Join(got, "|"); s != "a = 1 , 2 , 3|b=x y z|a = 4 # not a comment" {
		t.Error(s)
	}
	if v, at, ok := d.parameter("a"); !ok || v != "4 # not a comment" || at.first != 9 {
		t.Errorf("%q, %+v, %v", v, at, ok)
	}
	if _, _, ok := d.parameter("c"); ok {
		t.Error("a parameter that is not set")
	}
}

func TestEditsAndHowTheyAreTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		edit func(*document)
		want string
	}{
		"an insertion":                       {"a = 1\n  2\nb = 3\n", func(d *document) { _, at, _ := d.parameter("a"); d.insertAfter(at.last, "  ours") }, "a = 1\n  2\n  ours\nb = 3\n"},
		"at the end":                         {"a = 1\n", func(d *document) { d.add("ours = 2") }, "a = 1\nours = 2\n"},
		"no final newline":                   {"a = 1", func(d *document) { d.add("ours = 2"); d.add("ours = 3") }, "a = 1\nours = 2\nours = 3\n"},
		"no final newline, on the last line": {"a = 1", func(d *document) { d.insertAfter(0, "  ours"); d.add("b = 3") }, "a = 1\n  ours\nb = 3\n"},
		"what continues the last entry comes before what is added": {"a = 1\n", func(d *document) { d.add("ours = 2"); d.insertAfter(0, "  ours") }, "a = 1\n  ours\nours = 2\n"},
		"the same without a final newline":                         {"a = 1", func(d *document) { d.add("ours = 2"); d.insertAfter(0, "  ours") }, "a = 1\n  ours\nours = 2\n"},
		"an empty file":                                            {"", func(d *document) { d.add("ours = 2") }, "ours = 2\n"},
		"a replacement":                                            {"a = 1\n# c\n  2\nb = 3\n", func(d *document) { _, at, _ := d.parameter("a"); d.replace(at, "a = 9") }, "a = 9\nb = 3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDocument("main.cf", c.text)
			c.edit(d)
			got := d.edited()
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if back, ok := undone(got, d.ordered()); back != c.text || !ok {
				t.Errorf("taken back: %q, %v", back, ok)
			}
			// Whatever others wrote before and after stays.
			if back, ok := undone("z = 0\n"+got+"y = 1\n", d.ordered()); back != "z = 0\n"+c.text+"y = 1\n" && c.text != "a = 1" || !ok {
				t.Errorf("taken back among others: %q, %v", back, ok)
			}
		})
	}
	if back, ok := undone("ours\nours\n", []edit{{Add: []string{"ours\n"}}}); back != "ours\nours\n" || ok {
		t.Errorf("lines that are there twice: %q, %v", back, ok)
	}
}
