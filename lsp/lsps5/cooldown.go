package lsps5

import "time"

// Cooldown bounds how often a client hears one method while it does not come.
type Cooldown struct {
	// Every is the time between two notifications of a method to a client that
	// stays away.
	Every time.Duration
	// ResetEvery is how often a reconnection may lift that. Without it a client
	// that connects and disconnects all the time has its webhooks called as
	// often.
	ResetEvery time.Duration
}

// Sent is what is remembered of a method's last notification.
type Sent struct {
	// At is when it was, or will be, sent.
	At time.Time
	// Lifted is when a reconnection last lifted the cooldown.
	Lifted time.Time
}

// Next says when the next notification of the method may go out, from now on,
// and what to remember of it. left is when the client last went away after
// having been connected; zero if that is not known.
func (c Cooldown) Next(now time.Time, last Sent, left time.Time) Sent {
	next := Sent{At: now, Lifted: last.Lifted}
	due := last.At.Add(c.Every)
	if last.At.IsZero() || !due.After(now) {
		return next
	}
	next.At = due
	if left.After(last.At) {
		lifted := now
		if free := last.Lifted.Add(c.ResetEvery); !last.Lifted.IsZero() && free.After(now) {
			lifted = free
		}
		if lifted.Before(due) {
			next.At, next.Lifted = lifted, lifted
		}
	}
	return next
}

// Backoff is the pause after so many failed attempts; 0 is no more attempts.
func Backoff(attempts int) time.Duration {
	const most = 8
	if attempts < 1 || attempts >= most {
		return 0
	}
	return min(time.Second<<(2*(attempts-1)), 2*time.Minute) // 1 s, 4 s, 16 s, 64 s, then 2 min
}
