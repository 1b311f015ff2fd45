package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// runner is who runs this command.
type runner struct {
	uid    int
	name   string
	lookup func(name string) (*user.User, error)
}

func thisRunner() runner {
	r := runner{uid: os.Geteuid(), lookup: user.Lookup}
	if u, err := user.LookupId(strconv.Itoa(r.uid)); err == nil {
		r.name = u.Username
	}
	return r
}

// owner is the user of a systemd unit.
type owner struct {
	name     string
	uid, gid int
}

// rootsUnitUser runs the units that root asks for: lnd needs no rights of root's.
const rootsUnitUser = "lnd"

// unitOwner is who runs a unit whose files this command writes. They are readable to
// their owner alone: so it is whoever runs the command, or somebody to whom root can give
// them.
func (r runner) unitOwner(named string) (owner, error) {
	if named == "" {
		if named = r.name; r.uid == 0 {
			named = rootsUnitUser
		}
	}
	u, err := r.lookup(named)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return owner{}, fmt.Errorf("there is no user %s on this machine to run the systemd unit: make it (useradd --system --shell /usr/sbin/nologin %s), or name another one with --user", named, named)
	}
	if err != nil {
		return owner{}, fmt.Errorf("the user %q of the systemd unit: %w", named, err)
	}
	out := owner{name: u.Username}
	if out.uid, err = strconv.Atoi(u.Uid); err == nil {
		out.gid, err = strconv.Atoi(u.Gid)
	}
	switch {
	case err != nil:
		return owner{}, fmt.Errorf("the user %s of the systemd unit: %w", named, err)
	case r.uid != 0 && out.uid != r.uid:
		return owner{}, fmt.Errorf("the systemd unit's user %s could not read the files that %s writes: leave --user out, or run this command as root, which gives them to %s", named, r.name, named)
	}
	return out, nil
}

// take gives a directory to the unit's user, and the files in it that are there.
func (o owner) take(dir string, names ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Lchown(dir, o.uid, o.gid); err != nil {
		return err
	}
	return ownedLikeDir(dir, names...)
}

// ownedLikeDir gives files that root wrote to whose directory it is: an lnd that runs as
// that user reads them.
func ownedLikeDir(dir string, names ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	for _, name := range names {
		if err := os.Lchown(filepath.Join(dir, name), int(of.Uid), int(of.Gid)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
