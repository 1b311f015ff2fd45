package webhooks

// Stats count since the start.
type Stats struct {
	// Attempts were made; Delivered, Failed, Needless and Dropped is how
	// notifications ended.
	Attempts, Delivered, Failed, Needless, Dropped uint64
	// Clients have webhooks, and Calling are being called, as of now.
	Clients, Calling int
}

func (s *Stats) count(o outcome, before int64) {
	if o.attempts > before {
		s.Attempts++
	}
	switch o.state {
	case StateDelivered:
		s.Delivered++
	case StateFailed:
		s.Failed++
	case StateNeedless:
		s.Needless++
	case StateDropped:
		s.Dropped++
	}
}

// Stats are the counts until now.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Clients, out.Calling = len(s.hooked), len(s.calling)
	return out
}
