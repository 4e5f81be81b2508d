.PHONY: image

image:  ## Make the container image dist/inroad-image.tar, without a container engine (root, Debian 12)
	@$(SETUP) check
	@$(VENV)/python tools/image.py $(ARGS)
