// Package store keeps the tower's tables on both databases.
//
// It promises that an update is judged on the session and the tenant that its
// own serializable transaction read, and is durable when Apply returns nil; that
// every statement of a tenant's names the tenant, so that none reaches another
// one's sessions, whatever session key it has; and that a block counts as
// searched only in the transaction that stored what was found in it.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/lightningnetwork/lnd/lnwallet/chainfee"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtpolicy"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/store/towerdb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the service's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("tower migrations: %w", err)
	}
	return store.Migrate(ctx, db, "tower", files)
}

// Store is the tower's tables.
type Store struct {
	db    *store.DB
	fence func(context.Context, *store.Tx) error
}

// New uses a migrated database.
func New(db *store.DB) *Store {
	return &Store{db: db, fence: func(context.Context, *store.Tx) error { return nil }}
}

// Fenced is the same store for the one process that searches blocks: what it
// writes of blocks and breaches, it writes only while fence allows.
func (s *Store) Fenced(fence func(context.Context, *store.Tx) error) *Store {
	return &Store{db: s.db, fence: fence}
}

// Job is one request of a client on its way: exactly one of Session, Update and
// Delete is set. LastApplied and Refusal are its result; a Refusal of the
// protocol is one of wtdb's errors itself, because lnd's server compares them.
type Job struct {
	Tenant      int64
	Session     *wtdb.SessionInfo
	Update      *wtdb.SessionStateUpdate
	Delete      *wtdb.SessionID
	LastApplied uint16
	Refusal     error
}

// Apply runs jobs, in order, in one transaction: a refused job changes nothing
// and holds up no other. An error says that none of them is known to be durable.
func (s *Store) Apply(ctx context.Context, terms watchtower.Terms, jobs ...*Job) error {
	for attempt := 1; ; attempt++ {
		err := s.apply(ctx, terms, jobs)
		// PostgreSQL may name the duplicate number of a session, rather than the
		// conflict with the transaction that took it.
		if !errors.Is(err, store.ErrUnique) || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
	}
}

// maxAttempts is far above what a few replicas need that make sessions at the
// same moment.
const maxAttempts = 100

func (s *Store) apply(ctx context.Context, terms watchtower.Terms, jobs []*Job) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		b := &batch{q: towerdb.New(tx), terms: terms, now: tx.Now(), tenants: map[int64]*account{}, sessions: map[sessionKey]*session{}}
		for _, j := range jobs {
			j.LastApplied, j.Refusal = 0, nil
			if err := b.run(ctx, j); err != nil {
				return err
			}
		}
		return b.finish(ctx)
	})
}

type sessionKey struct {
	tenant int64
	id     wtdb.SessionID
}

// account is a tenant in a batch, and what the batch adds to it.
type account struct {
	watchtower.Tenant
	added watchtower.Usage
	drawn int64
}

// session is a session's row in a batch; num is 0 when there is none.
type session struct {
	num     int64
	info    wtdb.SessionInfo
	size    int
	added   watchtower.Usage
	changed bool
}

// batch is one attempt at a transaction of several jobs: what many of them share
// is read once, and written once at the end.
type batch struct {
	q        *towerdb.Queries
	terms    watchtower.Terms
	now      time.Time
	tenants  map[int64]*account
	sessions map[sessionKey]*session
}

func (b *batch) run(ctx context.Context, j *Job) error {
	acc, err := b.tenant(ctx, j.Tenant)
	if err != nil {
		return err
	}
	switch {
	case j.Update != nil:
		return b.update(ctx, acc, j)
	case j.Session != nil:
		return b.create(ctx, acc, j)
	case j.Delete != nil:
		return b.remove(ctx, acc, j)
	}
	return errors.New("a job asks for nothing")
}

func (b *batch) tenant(ctx context.Context, id int64) (*account, error) {
	if acc, ok := b.tenants[id]; ok {
		return acc, nil
	}
	row, err := b.q.GetTenant(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read tenant %d: %w", id, err)
	}
	t, err := tenantOf(row)
	if err != nil {
		return nil, err
	}
	acc := &account{Tenant: t}
	b.tenants[id] = acc
	return acc, nil
}

// session reads a session's row, or gives an empty one.
func (b *batch) session(ctx context.Context, tenant int64, id wtdb.SessionID) (*session, error) {
	key := sessionKey{tenant, id}
	if s, ok := b.sessions[key]; ok {
		return s, nil
	}
	row, err := b.q.GetSession(ctx, towerdb.GetSessionParams{Tenant: tenant, SessionID: id[:]})
	s := &session{}
	switch err = store.MapError(err); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("read session: %w", err)
	default:
		s.num, s.info = row.Num, sessionOf(row)
		if s.size, err = blobSize(s.info.Policy.BlobType); err != nil {
			return nil, fmt.Errorf("session %s: %w", id, err)
		}
	}
	b.sessions[key] = s
	return s, nil
}

func (b *batch) create(ctx context.Context, acc *account, j *Job) error {
	s, err := b.session(ctx, acc.ID, j.Session.ID)
	if err != nil {
		return err
	}
	if s.num != 0 && s.info.LastApplied > 0 {
		j.Refusal = wtdb.ErrSessionAlreadyExists
		return nil
	}
	if j.Refusal = j.Session.Policy.Validate(); j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	size, err := blobSize(j.Session.Policy.BlobType)
	if err != nil {
		j.Refusal = err
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	p, more := j.Session.Policy, watchtower.Usage{}
	if s.num == 0 {
		more.Sessions = 1
	}
	if j.Refusal = acc.Admit(b.terms, more, b.now); j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	reward := append([]byte{}, j.Session.RewardAddress...)
	if s.num == 0 {
		if s.num, err = b.q.InsertSession(ctx, towerdb.InsertSessionParams{
			Tenant: acc.ID, SessionID: j.Session.ID[:], BlobType: int64(p.BlobType), MaxUpdates: int64(p.MaxUpdates),
			RewardBase: int64(p.RewardBase), RewardRate: int64(p.RewardRate), SweepFeeRate: int64(p.SweepFeeRate), RewardAddress: reward, //nolint:gosec // the codec's range
			LastApplied: int64(j.Session.LastApplied), ClientLastApplied: int64(j.Session.ClientLastApplied), CreatedMs: b.now.UnixMilli(),
		}); err != nil {
			return fmt.Errorf("insert session: %w", err)
		}
		acc.add(more)
	} else if err := b.q.SetPolicy(ctx, towerdb.SetPolicyParams{
		// An unused session may change its terms.
		Num: s.num, BlobType: int64(p.BlobType), MaxUpdates: int64(p.MaxUpdates), RewardBase: int64(p.RewardBase),
		RewardRate: int64(p.RewardRate), SweepFeeRate: int64(p.SweepFeeRate), RewardAddress: reward, //nolint:gosec // the codec's range
		LastApplied: int64(j.Session.LastApplied), ClientLastApplied: int64(j.Session.ClientLastApplied),
	}); err != nil {
		return fmt.Errorf("change session: %w", err)
	}
	s.info, s.size = *j.Session, size
	s.info.RewardAddress = reward
	return nil
}

func (a *account) add(u watchtower.Usage) {
	a.Usage, a.added = a.Usage.Plus(u), a.added.Plus(u)
}

// draw takes what an update costs; Admit has seen that the credit suffices.
func (a *account) draw(msat int64) {
	a.CreditMsat, a.drawn = a.CreditMsat-msat, a.drawn+msat
}

// update stores a blob. One that comes again under the sequence number that was
// applied last, because its acknowledgement was lost, is acknowledged again; if
// it has another hint, both are held: they may be two breaches.
func (b *batch) update(ctx context.Context, acc *account, j *Job) error {
	u := j.Update
	s, err := b.session(ctx, acc.ID, u.ID)
	if err != nil {
		return err
	}
	if s.num == 0 {
		j.Refusal = wtdb.ErrSessionNotFound
		return nil
	}
	if len(u.EncryptedBlob) != s.size {
		j.Refusal = wtdb.ErrInvalidBlobSize
		return nil
	}
	after := s.info
	if j.Refusal = after.AcceptUpdateSequence(u.SeqNum, u.LastApplied); j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	more := watchtower.Usage{Updates: 1, Bytes: int64(len(u.EncryptedBlob) + len(u.Hint))}
	if refusal := acc.Admit(b.terms, more, b.now); refusal != nil {
		// What would only replace what is held needs no room.
		if again, err := b.replace(ctx, s, u, acc); err != nil || !again {
			j.Refusal = refusal
			return err
		}
	} else {
		n, err := b.q.InsertUpdate(ctx, towerdb.InsertUpdateParams{Hint: u.Hint[:], Session: s.num, Seq: int64(u.SeqNum), Blob: u.EncryptedBlob})
		if err != nil {
			return fmt.Errorf("insert update: %w", err)
		}
		if n == 1 {
			acc.draw(acc.CostMsat(b.terms, more))
			acc.add(more)
			s.added = s.added.Plus(more)
		} else if err := b.put(ctx, s, u); err != nil {
			return err
		}
	}
	s.info, s.changed, j.LastApplied = after, true, after.LastApplied
	return nil
}

// replace overwrites an update that is held already, of a tenant in good
// standing.
func (b *batch) replace(ctx context.Context, s *session, u *wtdb.SessionStateUpdate, acc *account) (bool, error) {
	if acc.Standing(b.terms, b.now) == watchtower.Suspended || acc.Standing(b.terms, b.now) == watchtower.Expired {
		return false, nil
	}
	rows, err := b.q.UpdatesBySeq(ctx, towerdb.UpdatesBySeqParams{Session: s.num, Seq: int64(u.SeqNum)})
	if err != nil {
		return false, fmt.Errorf("read update: %w", err)
	}
	for _, r := range rows {
		if string(r.Hint) == string(u.Hint[:]) {
			return true, b.put(ctx, s, u)
		}
	}
	return false, nil
}

func (b *batch) put(ctx context.Context, s *session, u *wtdb.SessionStateUpdate) error {
	err := b.q.ReplaceUpdate(ctx, towerdb.ReplaceUpdateParams{Hint: u.Hint[:], Session: s.num, Seq: int64(u.SeqNum), Blob: u.EncryptedBlob})
	if err != nil {
		return fmt.Errorf("replace update: %w", err)
	}
	return nil
}

func (b *batch) remove(ctx context.Context, acc *account, j *Job) error {
	row, err := b.q.GetSession(ctx, towerdb.GetSessionParams{Tenant: acc.ID, SessionID: j.Delete[:]})
	if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
		j.Refusal = wtdb.ErrSessionNotFound
		return nil
	}
	if err != nil {
		return fmt.Errorf("read session: %w", err)
	}
	held := watchtower.Usage{Sessions: 1, Updates: row.Updates, Bytes: row.StoredBytes}
	key := sessionKey{acc.ID, *j.Delete}
	if s, ok := b.sessions[key]; ok {
		// What this batch stored in it is not in its row yet.
		held = held.Plus(s.added)
	}
	if err := deleteSession(ctx, b.q, row.Num); err != nil {
		return err
	}
	b.sessions[key] = &session{}
	acc.add(watchtower.Usage{Sessions: -held.Sessions, Updates: -held.Updates, Bytes: -held.Bytes})
	return nil
}

func deleteSession(ctx context.Context, q *towerdb.Queries, num int64) error {
	if err := q.DeleteUpdates(ctx, num); err != nil {
		return fmt.Errorf("delete updates: %w", err)
	}
	if err := q.DeleteSession(ctx, num); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}

// finish writes what the batch added to sessions and tenants.
func (b *batch) finish(ctx context.Context) error {
	for _, s := range b.sessions {
		if !s.changed {
			continue
		}
		if err := b.q.AdvanceSession(ctx, towerdb.AdvanceSessionParams{
			Num: s.num, LastApplied: int64(s.info.LastApplied), ClientLastApplied: int64(s.info.ClientLastApplied),
			Updates: s.added.Updates, StoredBytes: s.added.Bytes, UpdatedMs: b.now.UnixMilli(),
		}); err != nil {
			return fmt.Errorf("advance session: %w", err)
		}
	}
	for id, acc := range b.tenants {
		if acc.drawn != 0 {
			if err := b.q.DrawCredit(ctx, towerdb.DrawCreditParams{ID: id, CreditMsat: acc.drawn}); err != nil {
				return fmt.Errorf("draw credit: %w", err)
			}
		}
		if acc.added == (watchtower.Usage{}) {
			continue
		}
		if err := b.q.AddUsage(ctx, towerdb.AddUsageParams{ID: id, Sessions: acc.added.Sessions, Updates: acc.added.Updates, StoredBytes: acc.added.Bytes}); err != nil {
			return fmt.Errorf("add to usage: %w", err)
		}
	}
	return nil
}

// blobSize is what every blob of a session must have.
func blobSize(t blob.Type) (int, error) {
	commitment, err := t.CommitmentType(nil)
	if err != nil {
		return 0, err
	}
	kit, err := commitment.EmptyJusticeKit()
	if err != nil {
		return 0, err
	}
	return blob.Size(kit), nil
}

// Session reads a session of a tenant's; wtdb.ErrSessionNotFound itself says
// that there is none.
func (s *Store) Session(ctx context.Context, tenant int64, id wtdb.SessionID) (out *wtdb.SessionInfo, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).GetSession(ctx, towerdb.GetSessionParams{Tenant: tenant, SessionID: id[:]})
		if err != nil {
			return err
		}
		info := sessionOf(row)
		out = &info
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, wtdb.ErrSessionNotFound
	}
	return out, err
}

func sessionOf(row towerdb.TowerSession) wtdb.SessionInfo {
	//nolint:gosec // every column was written from these types
	out := wtdb.SessionInfo{
		Policy: wtpolicy.Policy{
			TxPolicy: wtpolicy.TxPolicy{
				BlobType: blob.Type(row.BlobType), RewardBase: uint32(row.RewardBase), RewardRate: uint32(row.RewardRate),
				SweepFeeRate: chainfee.SatPerKWeight(row.SweepFeeRate),
			},
			MaxUpdates: uint16(row.MaxUpdates),
		},
		LastApplied: uint16(row.LastApplied), ClientLastApplied: uint16(row.ClientLastApplied), RewardAddress: append([]byte{}, row.RewardAddress...),
	}
	copy(out.ID[:], row.SessionID)
	return out
}
