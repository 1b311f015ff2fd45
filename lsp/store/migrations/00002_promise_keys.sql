-- +goose Up
-- The secrets under which offers are promised, several at a time while one
-- follows another. They are to be guarded like the macaroon.
CREATE TABLE lsp_promise_keys (
    version       BIGINT NOT NULL PRIMARY KEY,
    secret        BYTEA NOT NULL,
    made_ms       BIGINT NOT NULL,
    signs_from_ms BIGINT NOT NULL
);
-- They were a setting before, and nothing promised under them lasts longer
-- than an hour.
DELETE FROM lsp_settings WHERE name = 'promise_keys';

-- +goose Down
DROP TABLE lsp_promise_keys;
