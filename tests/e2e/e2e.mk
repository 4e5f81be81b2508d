.PHONY: e2e bench-e2e

e2e:  ## Run the tests on a real Kubernetes cluster made here (root; its first run builds it with Go: minutes)
	@$(SETUP) e2e
	@$(VENV)/python -m pytest tests/e2e --durations=12 $(ARGS)

bench-e2e:  ## Measure through a real API server and kubelet, beside kubectl port-forward; ARGS=3 rounds
	@$(SETUP) e2e
	@$(VENV)/python -m tests.e2e.bench $(ARGS)

-include tools/image.mk
