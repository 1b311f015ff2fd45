package vault

import "fmt"

// Verdict is what two heads of one log say of their server.
type Verdict string

// The verdicts.
const (
	// Same: the log stands where it stood.
	Same Verdict = "same"
	// Continues: the log went on from what was known.
	Continues Verdict = "continues"
	// Unproven: the log claims to be further, and nothing shows that it went
	// on from what was known. Ask for the entries in between.
	Unproven Verdict = "unproven"
	// RolledBack: the server signed a later entry before, and shows an older
	// log. The two heads, signed in this order, prove it.
	RolledBack Verdict = "rolled_back"
	// Forked: the server signed two logs that exclude each other. The two heads
	// prove it to anybody, whatever their order.
	Forked Verdict = "forked"
	// Disconnected: the entries that the server shows do not lead from what was
	// known to what it shows. It cannot show that its log went on; entries are not
	// signed one by one, so this convinces only whoever got them.
	Disconnected Verdict = "disconnected"
	// Restored: the server says that its database went back. Whatever it had
	// is to be stored anew.
	Restored Verdict = "restored"
	// Contradicted: what the server serves is not what its own log ends with. A
	// value is not signed together with the log, so this convinces only whoever
	// got both.
	Contradicted Verdict = "contradicted"
)

// Compare judges a head that a server shows now by one that it signed earlier.
// Both must have been verified. entries are those of the log after the known
// one, up to the shown one; nil if they were not asked for.
func Compare(known, shown Head, entries []Entry) (Verdict, error) {
	if known.Server != shown.Server || known.Identity != shown.Identity {
		return "", fmt.Errorf("the heads are of different logs")
	}
	if known.Epoch != shown.Epoch {
		return Restored, nil
	}
	switch {
	case shown.Seq < known.Seq:
		return RolledBack, nil
	case shown.Seq == known.Seq && shown.Hash == known.Hash:
		return Same, nil
	case shown.Seq == known.Seq:
		return Forked, nil
	case entries == nil:
		return Unproven, nil
	}
	at, err := follow(known.Hash, known.Seq, entries)
	if err != nil {
		return "", err
	}
	if known.Seq+uint64(len(entries)) != shown.Seq {
		return Unproven, nil
	}
	if at != shown.Hash {
		return Disconnected, nil
	}
	return Continues, nil
}

// Present gives the hash of what a log says to be there under a key; false if it
// says that nothing is, or says nothing of the key. The entries must lead from a
// known point of the log to the shown head; that of an empty log is known of all.
func Present(seq uint64, at Hash, entries []Entry, shown Head, store, key string) (content Hash, there, told bool, err error) {
	end, err := follow(at, seq, entries)
	switch {
	case err != nil:
		return Hash{}, false, false, err
	case seq+uint64(len(entries)) != shown.Seq || end != shown.Hash:
		return Hash{}, false, false, fmt.Errorf("%w: the entries do not lead to the head", ErrForged)
	}
	// Of a whole log silence is an answer, too.
	told = seq == 0
	for _, e := range entries {
		if e.Store == store && e.Key == key {
			content, there, told = e.Content, e.Op == OpPut, true
		}
	}
	return content, there, told, nil
}
