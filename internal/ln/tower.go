package ln

// ClientTower is a watchtower that an lnd uploads to, as its client sees it.
type ClientTower struct {
	Key       PubKey
	Addresses []string
	// Active says that new sessions may be made with it.
	Active   bool
	Sessions []ClientSession
}

// ClientSession is a session of an lnd's with a watchtower.
type ClientSession struct {
	ID PubKey
	// Acknowledged updates are those that the tower said it stored; Pending ones
	// were sent and not answered.
	Acknowledged, Pending, Max uint32
}

// ClientTowerStats is what an lnd's watchtower client counts, of all towers
// together, since lnd started.
type ClientTowerStats struct {
	// Pending updates are accepted by the client and not acknowledged by any tower:
	// also those that no session has room for.
	Pending uint32
	// Failed were given up.
	Failed uint32
}
