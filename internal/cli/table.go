package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Column is one column of a table.
type Column struct {
	Title string
	// Right aligns numbers.
	Right bool
}

// Table collects rows and aligns them by what they hold.
type Table struct {
	columns []Column
	rows    [][]string
}

// NewTable makes a table; a title that begins with '>' is a right-aligned
// column's.
func NewTable(titles ...string) *Table {
	t := &Table{}
	for _, title := range titles {
		bare, right := strings.CutPrefix(title, ">")
		t.columns = append(t.columns, Column{Title: bare, Right: right})
	}
	return t
}

// Row adds a row; missing cells are empty, surplus ones are dropped.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.columns))
	for i := range min(len(cells), len(row)) {
		row[i] = Clean(cells[i])
	}
	t.rows = append(t.rows, row)
}

// Len counts rows.
func (t *Table) Len() int { return len(t.rows) }

// Write prints the table. Titles that are all empty are left out.
func (t *Table) Write(w io.Writer) error {
	width := make([]int, len(t.columns))
	titled := false
	for i, c := range t.columns {
		width[i] = utf8.RuneCountInString(c.Title)
		titled = titled || c.Title != ""
		for _, row := range t.rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		var l strings.Builder
		for i, cell := range cells {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				l.WriteString("  ")
			}
			if t.columns[i].Right {
				l.WriteString(pad + cell)
			} else {
				l.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	if titled {
		titles := make([]string, len(t.columns))
		for i, c := range t.columns {
			titles[i] = c.Title
		}
		line(titles)
	}
	for _, row := range t.rows {
		line(row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Clean makes a text one line without control or direction-changing
// characters: reasons may quote what a peer or client wrote.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Wrap breaks a text into lines of at most width runes at its spaces, each
// after the first with an indent of so many blanks.
func Wrap(s string, width, indent int) string {
	var b strings.Builder
	used := 0
	for _, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		switch {
		case b.Len() == 0:
		case used+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			used = 0
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += n
	}
	return b.String()
}

// Printer writes lines and keeps the first error, so that commands check once.
type Printer struct {
	W   io.Writer
	Err error
}

// Printf writes formatted text.
func (p *Printer) Printf(format string, args ...any) {
	if p.Err == nil {
		_, p.Err = fmt.Fprintf(p.W, format, args...)
	}
}

// Table writes a table.
func (p *Printer) Table(t *Table) {
	if p.Err == nil {
		p.Err = t.Write(p.W)
	}
}
