package rpcserver

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sluice-lsp/sluice/internal/auth/api/authv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

func TestZeroBytesInTexts(t *testing.T) {
	bad := func(v any) proto.Message {
		m, err := structpb.NewValue(v)
		require.NoError(t, err)
		return m
	}
	for name, m := range map[string]proto.Message{
		"field": &authv1.ChallengeResponse{Message: "a\x00b"}, "nested": bad(map[string]any{"a": []any{"ok", "\x00"}}),
		"key": bad(map[string]any{"\x00": 1}),
	} {
		require.Equal(t, errkind.Invalid, errkind.Of(CheckText(m)), name)
	}
	for name, m := range map[string]proto.Message{
		"field": &authv1.ChallengeResponse{Message: "a b"}, "empty": &authv1.ChallengeResponse{},
		"nested": bad(map[string]any{"a": []any{"ok", 1}}),
	} {
		require.NoError(t, CheckText(m), name)
	}
	require.NoError(t, CheckText(7))
}
