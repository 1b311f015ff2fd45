package store

// Waiting is how many writes wait for a shared transaction.
func (db *DB) Waiting() int {
	db.together.mu.Lock()
	defer db.together.mu.Unlock()
	return len(db.together.waiting)
}
