package bench

import (
	"context"
	"fmt"
)

func (r *Report) runWire(context.Context, *Options, *progress) error {
	return fmt.Errorf("not yet: %w", errNotHere)
}
