package cli

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// Screen shows a text that changes: on a terminal in place, else as lines
// whenever it differs from the last one.
type Screen struct {
	w        io.Writer
	terminal bool
	width    func() int
	drawn    int
	last     string
}

// NewScreen shows on w, which is a terminal only if it is such a file.
func NewScreen(w io.Writer) *Screen {
	s := &Screen{w: w, width: func() int { return 0 }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor
		s.terminal = true
		s.width = func() int {
			width, _, err := term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor
			if err != nil {
				return 0
			}
			return width
		}
	}
	return s
}

// Terminal reports that the text is redrawn in place.
func (s *Screen) Terminal() bool { return s.terminal }

// Show replaces what was shown. Lines longer than the terminal are cut: a
// wrapped one would upset the count of lines to go up.
func (s *Screen) Show(text string) error {
	if !s.terminal {
		if text == s.last {
			return nil
		}
		s.last = text
		_, err := io.WriteString(s.w, text)
		return err
	}
	var b strings.Builder
	if s.drawn > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(s.drawn) + "A")
	}
	b.WriteString("\r\x1b[J")
	lines, width := strings.Split(strings.TrimSuffix(text, "\n"), "\n"), s.width()
	for _, l := range lines {
		if runes := []rune(l); width > 0 && len(runes) > width {
			l = string(runes[:width])
		}
		b.WriteString(l + "\n")
	}
	s.drawn = len(lines)
	_, err := io.WriteString(s.w, b.String())
	return err
}
