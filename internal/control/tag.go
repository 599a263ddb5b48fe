package control

import (
	"cmp"
	"context"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// TagResource adds tags to a service; a tag with the same key is overwritten. Errors: Invalid, NotFound.
func (c *Control) TagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, tags []trysail.Tag) ([]trysail.Operation, error) {
	if err := trysail.ValidateTags(tags); err != nil {
		return nil, err
	}
	return c.retag(ctx, caller, "TagResource", resourceName, arn, func(have []trysail.Tag) []trysail.Tag {
		for _, tag := range tags {
			have = slices.DeleteFunc(have, func(t trysail.Tag) bool { return t.Key == tag.Key })
			have = append(have, tag)
		}
		return have
	})
}

// UntagResource removes tags from a service. A key that is not there is no error. Errors: Invalid, NotFound.
func (c *Control) UntagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, keys []string) ([]trysail.Operation, error) {
	for _, key := range keys {
		if err := trysail.ValidateTagKey(key); err != nil {
			return nil, err
		}
	}
	return c.retag(ctx, caller, "UntagResource", resourceName, arn, func(have []trysail.Tag) []trysail.Tag {
		return slices.DeleteFunc(have, func(t trysail.Tag) bool { return slices.Contains(keys, t.Key) })
	})
}

func (c *Control) retag(ctx context.Context, caller trysail.Caller, operation, name string, arn *string, edit func([]trysail.Tag) []trysail.Tag) ([]trysail.Operation, error) {
	done, err := c.change(ctx, caller, operation, name, func(tx *store.Tx) error {
		s, err := service(tx, name)
		if err != nil {
			return err
		}
		if want := s.ARN(c.Region, c.Account); arn != nil && *arn != want {
			return trysail.Errorf(trysail.CodeInvalid, "Resource %q has ARN %q, not %q.", name, want, *arn)
		}
		tags := edit(slices.Clone(s.Tags))
		if err := trysail.ValidateTags(tags); err != nil {
			return err // too many together
		}
		slices.SortFunc(tags, func(a, b trysail.Tag) int { return cmp.Compare(a.Key, b.Key) })
		return tx.SetTags(s.ID, tags)
	})
	if err != nil {
		return nil, err
	}
	return []trysail.Operation{done}, nil
}
