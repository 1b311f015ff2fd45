package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// tellTimeout bounds the program.
const tellTimeout = time.Minute

// Program tells by running a program: what is wrong is on its standard input, a
// line each, and SLUICE_TOWERS is alarm, or over once all is in order again.
func Program(path string) func(ctx context.Context, over bool, text string) error {
	return func(ctx context.Context, over bool, text string) error {
		ctx, cancel := context.WithTimeout(ctx, tellTimeout)
		defer cancel()
		state := "alarm"
		if over {
			state = "over"
		}
		cmd := exec.CommandContext(ctx, path) //nolint:gosec // the wallet's owner chose it
		cmd.Env = append(os.Environ(), "SLUICE_TOWERS="+state)
		cmd.Stdin = strings.NewReader(text)
		cmd.WaitDelay = time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
}
