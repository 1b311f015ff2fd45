// Package pgreplica has a PostgreSQL cluster followed by a replica at somebody else's, and
// tells how the two stand.
//
// It promises that nobody else's data goes along: a cluster with more than the one
// database is refused; that a primary waits for its replica only once that one follows, so
// that it never waits for one that was not there yet; and that doing it again changes
// nothing that is right.
package pgreplica

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/pace"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
)

// Open connects to a database.
func Open(ctx context.Context, dsn string) (*sql.DB, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, fmt.Errorf("the database: %w", err)
	}
	db.SetMaxOpenConns(1)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the database: %w", err), db.Close())
	}
	return db, nil
}

// Name is that of the replica's role and slot at the primary.
func Name(tenant string) string { return "sluice_" + strings.ReplaceAll(tenant, "-", "_") }

// Prepared is what a replica needs to follow.
type Prepared struct {
	Name string
	// Password is the role's, if it was made now or made anew; empty otherwise.
	Password string
	Database string
	// Synchronous: commits wait for the replica.
	Synchronous bool
	// Said is what is left to do.
	Said string
}

// Prepare readies a primary for one replica, and has commits wait for it once it follows.
// admin is a superuser's connection to the node's database.
func Prepare(ctx context.Context, admin *sql.DB, tenant string, newPassword bool) (out Prepared, err error) {
	out.Name = Name(tenant)
	if !regexp.MustCompile(`^[a-z][a-z0-9_]{1,62}$`).MatchString(out.Name) {
		return out, fmt.Errorf("%q is no name of a role", out.Name)
	}
	if out.Database, err = alone(ctx, admin); err != nil {
		return out, err
	}
	var there, slot bool
	if err := admin.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1), EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1)`, out.Name).Scan(&there, &slot); err != nil {
		return out, err
	}
	if !there || newPassword {
		raw := make([]byte, 24)
		if _, err := rand.Read(raw); err != nil {
			return out, err
		}
		out.Password = hex.EncodeToString(raw)
		verb := "ALTER"
		if !there {
			verb = "CREATE"
		}
		// Both are of this program's making: they need no quoting.
		if _, err := admin.ExecContext(ctx, fmt.Sprintf("%s ROLE %s WITH LOGIN REPLICATION PASSWORD '%s'", verb, out.Name, out.Password)); err != nil {
			return out, fmt.Errorf("the replica's role: %w", err)
		}
	}
	// To see how the replication stands, and to read nothing else.
	var monitors bool
	if err := admin.QueryRowContext(ctx, "SELECT pg_has_role($1, 'pg_monitor', 'MEMBER')", out.Name).Scan(&monitors); err != nil {
		return out, err
	}
	if !monitors {
		if _, err := admin.ExecContext(ctx, "GRANT pg_monitor TO "+out.Name); err != nil {
			return out, err
		}
	}
	if !slot {
		if _, err := admin.ExecContext(ctx, "SELECT pg_create_physical_replication_slot($1)", out.Name); err != nil {
			return out, fmt.Errorf("the replica's slot: %w", err)
		}
	}
	var follows bool
	if err := admin.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')`, out.Name).Scan(&follows); err != nil {
		return out, err
	}
	if !follows {
		out.Said = "the replica does not follow yet: once it does, run this command again, so that commits wait for it"
		return out, nil
	}
	return out, wait(ctx, admin, &out)
}

// alone gives the name of the only database with tables of somebody's.
func alone(ctx context.Context, admin *sql.DB) (name string, err error) {
	if err := admin.QueryRowContext(ctx, "SELECT current_database()").Scan(&name); err != nil {
		return "", err
	}
	rows, err := admin.QueryContext(ctx, "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname NOT IN ('postgres', current_database())")
	if err != nil {
		return "", err
	}
	defer func() { _ = rows.Close() }()
	var others []string
	for rows.Next() {
		var other string
		if err := rows.Scan(&other); err != nil {
			return "", err
		}
		others = append(others, other)
	}
	if len(others) > 0 {
		return "", fmt.Errorf("this PostgreSQL has other databases (%s): a replica is one of the whole cluster, and they would go to the tenant. Give the tenant's node a cluster of its own", strings.Join(others, ", "))
	}
	return name, rows.Err()
}

// syncSettings are those with which a commit waits until the replica has it on its disk.
func syncSettings(name string) [][2]string {
	return [][2]string{{"synchronous_standby_names", name}, {"synchronous_commit", "on"}}
}

func wait(ctx context.Context, admin *sql.DB, out *Prepared) error {
	changed := false
	for _, s := range syncSettings(out.Name) {
		var have string
		if err := admin.QueryRowContext(ctx, "SELECT current_setting($1)", s[0]).Scan(&have); err != nil {
			return err
		}
		if have == s[1] {
			continue
		}
		if s[0] == "synchronous_standby_names" && have != "" {
			return fmt.Errorf("synchronous_standby_names is %q: this cluster waits for another replica already. Name both yourself, for example FIRST 2 (%s, ...)", have, out.Name)
		}
		if _, err := admin.ExecContext(ctx, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", s[0], s[1])); err != nil {
			return err
		}
		changed = true
	}
	if changed {
		if _, err := admin.ExecContext(ctx, "SELECT pg_reload_conf()"); err != nil {
			return err
		}
	}
	out.Synchronous = true
	return nil
}

// Standing is how a primary says that its replica follows.
type Standing struct {
	System      string
	At          time.Time
	Synchronous bool
	// Said is why not.
	Said string
	// Position is what the primary knows to be on the replica's disk.
	Position uint64
}

// Look asks a primary, by the replica's role, about the replica of that name. database is
// the node's.
func Look(ctx context.Context, primary *sql.DB, name, database string) (out Standing, err error) {
	if err := primary.QueryRowContext(ctx, "SELECT system_identifier::text, clock_timestamp() FROM pg_control_system()").Scan(&out.System, &out.At); err != nil {
		return out, fmt.Errorf("ask the primary: %w", err)
	}
	var state, syncState string
	var position int64
	err = primary.QueryRowContext(ctx, `SELECT state, sync_state, COALESCE((flush_lsn - '0/0'::pg_lsn)::bigint, 0) FROM pg_stat_replication WHERE application_name = $1 ORDER BY state = 'streaming' DESC LIMIT 1`, name).Scan(&state, &syncState, &position)
	if errors.Is(err, sql.ErrNoRows) {
		out.Said = "the replica does not follow"
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("ask the primary for its replica: %w", err)
	}
	out.Position = uint64(max(0, position)) //nolint:gosec // not below zero
	commits, err := commitSettings(ctx, primary, database)
	if err != nil {
		return out, err
	}
	weak := slices.DeleteFunc(commits, func(v string) bool { return v == "on" || v == "remote_apply" })
	switch {
	case state != "streaming":
		out.Said = "the replica does not follow closely: " + state
	case syncState != "sync" && syncState != "quorum":
		out.Said = "commits do not wait for the replica (sync_state " + syncState + "): the operator runs sluicectl tenant replica again"
	case len(weak) > 0:
		out.Said = "commits of the node do not wait for the replica: synchronous_commit is " + strings.Join(weak, ", ") + " for it"
	default:
		out.Synchronous = true
	}
	return out, nil
}

// commitSettings are the values of synchronous_commit that a session of the node's can
// have: the cluster's, and those of roles and of the database.
func commitSettings(ctx context.Context, primary *sql.DB, database string) ([]string, error) {
	rows, err := primary.QueryContext(ctx, `
SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'
UNION ALL
SELECT split_part(c, '=', 2) FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
WHERE (s.setdatabase = 0 OR d.datname = $1) AND split_part(c, '=', 1) = 'synchronous_commit'`, database)
	if err != nil {
		return nil, fmt.Errorf("ask the primary for its settings: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// Copy is how a replica stands.
type Copy struct {
	System    string
	Replica   bool
	Following bool
	Position  uint64
	Last      time.Time
}

// Inspect asks a replica, by a superuser's connection of its own machine. It waits until
// everything that was received can be read.
func Inspect(ctx context.Context, replica *sql.DB) (out Copy, err error) {
	if err := replica.QueryRowContext(ctx, "SELECT system_identifier::text, pg_is_in_recovery() FROM pg_control_system()").Scan(&out.System, &out.Replica); err != nil {
		return out, fmt.Errorf("ask the replica: %w", err)
	}
	if err := replica.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming')").Scan(&out.Following); err != nil {
		return out, fmt.Errorf("ask the replica: %w", err)
	}
	if !out.Replica {
		return out, nil
	}
	// Everything that is on its disk is read once the process that reads waits for more.
	for before := int64(-1); ; {
		var replayed int64
		var waits bool
		var last sql.NullTime
		if err := replica.QueryRowContext(ctx, `
SELECT COALESCE((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint, 0), pg_last_xact_replay_timestamp(),
  EXISTS (SELECT 1 FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream'))`).Scan(&replayed, &last, &waits); err != nil {
			return out, fmt.Errorf("ask the replica: %w", err)
		}
		if waits && replayed == before || out.Following {
			out.Position, out.Last = uint64(max(0, replayed)), last.Time //nolint:gosec // not below zero
			return out, nil
		}
		before = replayed
		if err := pace.Pause(ctx, replayPause); err != nil {
			return out, fmt.Errorf("the replica has not read all that it received: %w", err)
		}
	}
}

const replayPause = 100 * time.Millisecond
