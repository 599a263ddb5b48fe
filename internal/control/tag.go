package control

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// TagResource adds tags to a service or a certificate; a tag with the same key is overwritten. Errors: Invalid, NotFound.
func (c *Control) TagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, tags []trysail.Tag) (_ []trysail.Operation, err error) {
	defer c.auditFailure(ctx, caller, "TagResource", resourceName, &err)
	if err := caller.May(trysail.RoleAdmin, "TagResource", resourceName); err != nil {
		return nil, err
	}
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

// UntagResource removes tags from a service or a certificate. A key that is not there is no error. Errors: Invalid, NotFound.
func (c *Control) UntagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, keys []string) (_ []trysail.Operation, err error) {
	defer c.auditFailure(ctx, caller, "UntagResource", resourceName, &err)
	if err := caller.May(trysail.RoleAdmin, "UntagResource", resourceName); err != nil {
		return nil, err
	}
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
		r, err := c.tagged(tx, name)
		if err != nil {
			return err
		}
		if arn != nil && *arn != r.arn {
			return trysail.Errorf(trysail.CodeInvalid, "Resource %q has ARN %q, not %q.", name, r.arn, *arn)
		}
		tags := edit(slices.Clone(r.tags))
		if err := trysail.ValidateTags(tags); err != nil {
			return err // too many together
		}
		slices.SortFunc(tags, func(a, b trysail.Tag) int { return cmp.Compare(a.Key, b.Key) })
		return r.set(tags)
	})
	if err != nil {
		return nil, err
	}
	return []trysail.Operation{done}, nil
}

// taggable is something that has tags.
type taggable struct {
	arn  string
	tags []trysail.Tag
	set  func([]trysail.Tag) error
}

// tagged finds the service or certificate of that name. Errors: NotFound.
func (c *Control) tagged(tx *store.Tx, name string) (taggable, error) {
	s, err := service(tx, name)
	if err == nil {
		return taggable{s.ARN(c.Region, c.Account), s.Tags, func(tags []trysail.Tag) error { return tx.SetTags(s.ID, tags) }}, nil
	}
	cert, certErr := tx.Certificate(name)
	if errors.Is(certErr, store.ErrNotFound) {
		return taggable{}, err
	}
	if certErr != nil {
		return taggable{}, certErr
	}
	return taggable{cert.ARN(c.Region, c.Account), cert.Tags, func(tags []trysail.Tag) error { return tx.SetCertificateTags(cert.ID, tags) }}, nil
}
