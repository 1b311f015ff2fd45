package gate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// Kind is what a line of the log says. The words stand in the file.
type Kind string

// The kinds of lines.
const (
	Started Kind = "started"
	// Counted: a signature that counts against a limit, before it is made.
	Counted Kind = "counted"
	Refused Kind = "refused"
	Paused  Kind = "paused"
	Resumed Kind = "resumed"
	// Summary: how much of what passed or was refused since the last one.
	Summary Kind = "summary"
)

// Line is one line of the log, JSON.
type Line struct {
	At      time.Time        `json:"at"`
	Kind    Kind             `json:"kind"`
	Method  string           `json:"method,omitempty"`
	What    string           `json:"what,omitempty"`
	Rule    string           `json:"rule,omitempty"`
	Said    string           `json:"said,omitempty"`
	Counted *guard.Entry     `json:"counted,omitempty"`
	Counts  map[string]int64 `json:"counts,omitempty"`
}

// journal is the log's file. Lines are only ever added.
type journal struct {
	file *os.File
	// broken: a write failed, and what the file ends with is not known.
	broken error
	minute time.Time
	lines  int
}

// maxLine is more than a line can have.
const maxLine = 1 << 20

// maxRefusedPerMinute are written down; the summary has the number of all.
const maxRefusedPerMinute = 20

var errLocked = errors.New("another guard runs in this directory")

// openJournal reads the log and is ready to add to it. A last line that was not finished
// is cut off: nothing was signed for it.
func openJournal(path string, each func(Line) error) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	end, err := readLines(f, each)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &journal{file: f}, nil
}

func readLines(r io.Reader, each func(Line) error) (end int64, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		var l Line
		if err := json.Unmarshal(text, &l); err != nil || len(text) > maxLine || l.Kind == "" {
			return end, fmt.Errorf("line %d is damaged: what counted against the limits is not known. Keep a copy; move the file away to begin anew with limits that are whole", n)
		}
		if err := each(l); err != nil {
			return end, fmt.Errorf("line %d: %w", n, err)
		}
		end += int64(len(text))
	}
}

func (j *journal) write(l Line, sync bool) error {
	if j.broken != nil {
		return j.broken
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = j.file.Write(append(raw, '\n'))
	if err == nil && sync {
		err = j.file.Sync()
	}
	// After a failed write or sync the file is what it is: only a restart reads it.
	j.broken = err
	return err
}

// refused writes a refusal unless there were many.
func (j *journal) refused(l Line) error {
	if minute := l.At.Truncate(time.Minute); !minute.Equal(j.minute) {
		j.minute, j.lines = minute, 0
	}
	if j.lines++; j.lines > maxRefusedPerMinute {
		return nil
	}
	return j.write(l, false)
}

func (j *journal) close() error { return errors.Join(j.file.Sync(), j.file.Close()) }

// Report is what a guard's directory tells without its guard.
type Report struct {
	Policy guard.Policy `json:"policy"`
	Paused bool         `json:"paused"`
	// Day is what the last 24 hours counted.
	Day guard.Sums `json:"day"`
	// Counts are those of the summaries of the last 24 hours.
	Counts map[string]int64 `json:"counts"`
	// Lines are the last refusals and counted signatures, oldest first.
	Lines []Line `json:"lines"`
}

// Read reports on a directory, the guard running or not.
func Read(dir string, now time.Time, last int) (Report, error) {
	out := Report{Counts: map[string]int64{}}
	raw, err := os.ReadFile(join(dir, FilePolicy))
	if err != nil {
		return out, err
	}
	if out.Policy, err = ParsePolicy(raw); err != nil {
		return out, err
	}
	_, err = os.Lstat(join(dir, FilePaused))
	out.Paused = !errors.Is(err, os.ErrNotExist)
	f, err := os.Open(join(dir, FileLog))
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer func() { _ = f.Close() }()
	book := guard.NewBook()
	_, err = readLines(f, func(l Line) error {
		switch l.Kind {
		case Summary:
			if l.At.After(now.Add(-guard.Day)) {
				for what, n := range l.Counts {
					out.Counts[what] += n
				}
			}
			return nil
		case Counted:
			if l.Counted != nil {
				if err := book.Apply(*l.Counted); err != nil {
					return err
				}
			}
		}
		if out.Lines = append(out.Lines, l); len(out.Lines) > last {
			out.Lines = out.Lines[1:]
		}
		return nil
	})
	out.Day = book.Today(now)
	return out, err
}
