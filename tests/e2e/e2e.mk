.PHONY: e2e

e2e:  ## Run the tests on a real Kubernetes cluster made here (root; its first run builds it with Go: minutes)
	@$(SETUP) e2e
	@$(VENV)/python -m pytest tests/e2e $(ARGS)

-include tools/image.mk
