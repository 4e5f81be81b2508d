.PHONY: e2e

e2e:  ## Run the tests on a real Kubernetes cluster made here (root; builds it once with Go, then seconds)
	@$(SETUP) e2e
	@$(VENV)/python -m pytest tests/e2e $(ARGS)
