package errkind_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

func TestKindOfOutermostWins(t *testing.T) {
	inner := errkind.New(errkind.NotFound, "No such offer.")
	outer := errkind.Wrap(errkind.Unavailable, fmt.Errorf("read offer: %w", inner), "Try again in a minute.")
	err := fmt.Errorf("wrap invoice: %w", outer)

	require.Equal(t, errkind.Unavailable, errkind.Of(err))
	require.Equal(t, "Try again in a minute.", errkind.Sentence(err))
	require.ErrorIs(t, err, errkind.Unavailable)
	require.ErrorIs(t, err, errkind.NotFound, "causes stay reachable")
	require.Contains(t, err.Error(), "read offer", "the log sees the cause")
}

func TestNothingInternalIsShown(t *testing.T) {
	for _, err := range []error{
		errors.New("pq: password of user sluice is wrong"),
		errkind.New(errkind.Internal, "secret path"),
		errkind.Wrap(errkind.Internal, errkind.New(errkind.Invalid, "shown elsewhere"), "secret path"),
		fmt.Errorf("x: %w", io.ErrUnexpectedEOF),
	} {
		require.Equal(t, errkind.Internal, errkind.Of(err))
		require.Empty(t, errkind.Sentence(err))
	}
}

func TestNilAndBareKinds(t *testing.T) {
	require.NoError(t, errkind.Wrap(errkind.Invalid, nil, "x"))
	require.Empty(t, errkind.Of(nil))
	require.Empty(t, errkind.Sentence(nil))
	require.Equal(t, errkind.Conflict, errkind.Of(fmt.Errorf("row 7: %w", errkind.Conflict)))
}

func TestNewfKeepsCauseOnce(t *testing.T) {
	err := errkind.Newf(errkind.Invalid, "the file ends early: %w", io.ErrUnexpectedEOF)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "the file ends early: unexpected EOF", err.Error())
}
