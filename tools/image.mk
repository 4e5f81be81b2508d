.PHONY: image

image:  ## Make the container image dist/inroad-image.tar, without a container engine (root, Debian 12)
	@$(SETUP) check
	@$(VENV)/python tools/image.py $(ARGS)

.PHONY: manifest

manifest:  ## Render the chart into the package, for `inroad install` without helm
	@$(SETUP) check
	@$(VENV)/python tools/manifest.py
