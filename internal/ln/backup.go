package ln

// ChannelBackup is lnd's static backup of all its channels at one moment. It
// restores no balance: with it lnd asks each peer to close, and takes what the
// peer's commitment pays to us.
type ChannelBackup struct {
	// Multi is lnd's own file, channel.backup. lnd makes it anew each time, so
	// two backups are compared by their channels, not by these bytes.
	Multi    []byte
	Channels []Outpoint
}

// KeyLocator names a key of lnd's wallet: m/1017'/coin'/family'/0/index.
type KeyLocator struct{ Family, Index int32 }
