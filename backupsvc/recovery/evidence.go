package recovery

import (
	"fmt"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Evidence is a provider's own word against it: two heads that it signed.
// Anybody can check it, without the wallet and without the provider.
type Evidence struct {
	Verdict  vault.Verdict `json:"verdict"`
	Provider string        `json:"provider"`
	// Node is the Lightning node that the provider is, Binding its signature of
	// the key that signed the heads. Without it the heads speak of that key only.
	Node    string `json:"node,omitempty"`
	Binding string `json:"binding,omitempty"`
	// Known was signed first, Shown later.
	Known *Head `json:"known"`
	Shown *Head `json:"shown"`
}

// Convicts says that a verdict convinces others: the two signatures suffice. That a
// shorter log was shown later than a longer one is told by the server's own clock; one
// that turns it back is found out, and cannot be shown to others.
func Convicts(v vault.Verdict, known, shown *Head) bool {
	return v == vault.Forked || v == vault.RolledBack && known != nil && shown != nil && shown.AtMs >= known.AtMs
}

// Verify checks evidence from nothing but itself. recover gives the node that
// signed a text. It tells in a sentence what is proved.
func (e Evidence) Verify(recoverSigner func(text, signature string) (ln.PubKey, error)) (string, error) {
	known, err := e.Known.Signed()
	if err != nil {
		return "", fmt.Errorf("the first head: %w", err)
	}
	shown, err := e.Shown.Signed()
	if err != nil {
		return "", fmt.Errorf("the second head: %w", err)
	}
	verdict, err := vault.Compare(known.Head, shown.Head, nil)
	if err != nil {
		return "", err
	}
	who := fmt.Sprintf("the key %x", known.Server)
	if e.Binding != "" {
		node, err := recoverSigner(vault.BindingText(known.Server), e.Binding)
		if err != nil {
			return "", fmt.Errorf("the binding: %w", err)
		}
		if node.String() != e.Node {
			return "", fmt.Errorf("the binding was signed by %s, not by %s", node, e.Node)
		}
		who = "the node " + e.Node
	}
	switch {
	case verdict == vault.Forked:
		return fmt.Sprintf("%s signed two logs of %s that exclude each other, both at entry %d", who, known.Identity, known.Seq), nil
	case verdict == vault.RolledBack && shown.AtMs >= known.AtMs:
		return fmt.Sprintf("%s acknowledged entry %d of %s, and later showed a log that ends at entry %d", who, known.Seq, known.Identity, shown.Seq), nil
	}
	return "", fmt.Errorf("the two heads do not contradict each other (%s)", verdict)
}
