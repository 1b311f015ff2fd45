// Package config loads a daemon's configuration from one TOML file, the
// environment and flags, into a struct that already holds the defaults.
//
// It promises that flags win over the environment, the environment over the
// file, and the file over the defaults; that a key nobody knows is an error
// that names the nearest known one, wherever it stands; that every value is
// checked against its field's tags and every Validate method before Load
// returns; and that the sample file (Sample) is made from the same struct, so
// that it cannot lag behind.
//
// Fields carry these tags:
//
//	toml:"name"      the key; a field without it is no setting
//	help:"…"         one sentence for the sample file
//	min:"…" max:"…"  bounds, written as the value itself would be
//	oneof:"a|b"      the values allowed
//	required:"true"  must not be empty
//
// The key lsp.max_open is SLUICE_LSP_MAX_OPEN in the environment and
// --set lsp.max_open=… among the flags. Lists of tables are for the file only.
package config
