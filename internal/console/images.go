package console

import (
	"fmt"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// imagesView is the images that were pushed to a service.
type imagesView struct {
	Service  string
	Images   []imageRow
	Registry string
	Endpoint string
}

// imageRow is an image with the versions that use it.
type imageRow struct {
	trysail.RegisteredImage
	Used []int
}

func (c *Console) showImages(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	list, err := c.control.GetContainerImages(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	view := imagesView{Service: s.Name, Registry: c.control.Registry, Endpoint: c.cfg.Endpoint}
	for _, image := range list {
		row := imageRow{RegisteredImage: image}
		for _, d := range all {
			for _, container := range d.Containers {
				if container.Image == image.Name() {
					row.Used = append(row.Used, d.Version)
					break
				}
			}
		}
		view.Images = append(view.Images, row)
	}
	return c.servicePage(s, &page{Template: "images", Title: "Images", Tab: "images", D: view}), nil
}

func (c *Console) deleteImage(v *visit) (*page, error) {
	image := v.PostFormValue("image")
	err := c.control.DeleteContainerImage(v.Context(), v.caller, control.DeleteContainerImageInput{ServiceName: v.service(), Image: image})
	return v.outcome(serviceURL(v.service(), "images"), err, fmt.Sprintf("Image %s is deleted.", image))
}
