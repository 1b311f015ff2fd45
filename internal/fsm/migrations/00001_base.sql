-- +goose Up
CREATE TABLE fsm_instances (
    machine    TEXT NOT NULL,
    id         TEXT NOT NULL,
    state      TEXT NOT NULL,
    data       TEXT NOT NULL,
    version    BIGINT NOT NULL,
    terminal   BOOLEAN NOT NULL,
    due_ms     BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (machine, id)
);
CREATE INDEX fsm_instances_live ON fsm_instances (machine, id) WHERE NOT terminal;
CREATE INDEX fsm_instances_state ON fsm_instances (machine, state, id);

CREATE TABLE fsm_events (
    machine    TEXT NOT NULL,
    id         TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    event      TEXT NOT NULL,
    data       TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    at_ms      BIGINT NOT NULL,
    PRIMARY KEY (machine, id, seq)
);

CREATE TABLE fsm_outbox (
    machine    TEXT NOT NULL,
    id         TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    pos        BIGINT NOT NULL,
    effect     TEXT NOT NULL,
    data       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    done_ms    BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    note       TEXT NOT NULL,
    PRIMARY KEY (machine, id, seq, pos)
);
CREATE INDEX fsm_outbox_undone ON fsm_outbox (machine, id, seq, pos) WHERE done_ms = 0;

-- +goose Down
DROP TABLE fsm_outbox;
DROP TABLE fsm_events;
DROP TABLE fsm_instances;
