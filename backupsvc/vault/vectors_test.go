package vault_test

// The vectors of docs/backups.md: server key 0707…07, identity sig:02ab, epoch
// 0102 03 and zeros, 2026-03-01 12:00 UTC, store "s", puts "a" = "one" (insert)
// and "b" = "two" (unconditional).
const (
	vectorPrev      = "846433f78beb84e26f4ea4e32bb2ebc52fed293937676486efbb558cf0fcec5d"
	vectorHead      = "fe4b6b6475a94edf4f062882f8dc890438aabf6828b647db3d5732a9f3f53e04"
	vectorSignature = "85e5c3ad32c06a89c3d442d0f8bda205be5f42b8c4dfb0c0f67df9492a0db650fb946aeb0b5bf5d6feaf8ead9ac604624a36930ae20169ef88fdc9fbebb5c63b"
)
