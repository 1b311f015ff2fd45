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
