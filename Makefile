# MMSB: build, run, test. `make help` lists the targets.
# Unchanged parts are not rebuilt: make compares the stamp or output of each step with its sources.

SHELL := /bin/bash
.DEFAULT_GOAL := help

TS_SOURCES := $(shell find src -name '*.ts' 2>/dev/null)
TAP := npx tap run
# One test file more than there are cores: tests wait for disks, clocks and servers for part of their time. On two cores
# all tests take 616 s with three at a time, 694 s with two.
export TAP_JOBS ?= $(shell echo $$(($$(nproc) + 1)))
COMPILED = $(BUILD)/tests
TEST_FOLDERS := test examples bench scripts

.PHONY: help install build package-files gpu-bundle run compiled-tests test test-quick abuse mutants mutants-record mutants-native demo demo-flights docs image-check bench bench-compare lint format clean

include native.mk

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

node_modules/.installed: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

install: node_modules/.installed

$(BUILD)/.ts: $(TS_SOURCES) tsconfig.json node_modules/.installed
	@mkdir -p $(BUILD) dist
	npx tsc -p tsconfig.json
	@# What an earlier build made of sources that are gone would get into the npm package.
	@find dist -name '*.js' | while read -r made; do name=$${made%.js}; [ -e src/$${name#dist/}.ts ] || rm -f $$name.{js,js.map,d.ts}; done
	@touch $@

# One module in place of the 700 of the schema library (src/http/typebox.ts).
$(BUILD)/.typebox: $(BUILD)/.ts
	@npx esbuild src/http/typebox.ts --bundle --format=esm --platform=node --log-level=warning --allow-overwrite \
	  --banner:js="/* $$(cat node_modules/typebox/license) */" --outfile=dist/http/typebox.js
	@rm -f dist/http/typebox.js.map
	@touch $@

build: node_modules/.installed $(BUILD)/.ts $(BUILD)/.typebox $(LIB) ## install packages and build everything

package-files: build $(PREBUILT) ## build what `npm pack` packs: dist/ and the CPU library for those who install from npm

run: build ## serve on http://127.0.0.1:7411
	node bin/mmsb.js serve

# Tests are compiled once, not by tsx in every process and thread. They find src/ as built, and their data through
# test/lib/place.ts. The hundreds of modules of tap become one, under a name that tap leaves out of stacks; React, which
# tap loads to print elements, becomes a stub. So a test begins 0.15 s of processor time earlier.
compiled-tests: build
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)/node_modules/@tapjs/tap $(COMPILED)/node_modules/react-element-to-jsx-string
	@ln -s ../../dist $(COMPILED)/src && ln -s ../../bin $(COMPILED)/bin && ln -s @tapjs/tap $(COMPILED)/node_modules/tap
	@npx esbuild $(shell find $(TEST_FOLDERS) -name '*.ts') --outdir=$(COMPILED) --outbase=. --format=esm --platform=node \
	  --sourcemap --log-level=warning
	@echo '{ "type": "module", "exports": "./index.js" }' >$(COMPILED)/node_modules/tap/package.json
	@echo "export * from 'tap'; export { default } from 'tap'" | npx esbuild --bundle --format=esm --platform=node --log-level=warning \
	  --banner:js="import { createRequire as toRequire } from 'node:module'; const require = toRequire(import.meta.url)" \
	  --outfile=$(COMPILED)/node_modules/tap/index.js
	@echo 'module.exports = { default: String }' >$(COMPILED)/node_modules/react-element-to-jsx-string/index.js

test: compiled-tests package-files ## run every test, or some: TESTS="test/store test/wire"
	@$(MAKE) --no-print-directory -j2 $(EMULATED_PROGRAMS)
	MMSB_TESTS='$(TESTS)' $(TAP) $(TAP_ARGS) $(COMPILED)/test/all.js

test-quick: compiled-tests package-files ## run what is likeliest to notice your changes, in a minute; since a commit: BASE=main
	npx tsx scripts/test-quick.ts $(if $(BASE),--base '$(BASE)')

abuse: build ## ten minutes of abusers beside a polite writer and subscriber (see test/abuse/README.md)
	npx tsx test/abuse/main.ts $(ABUSE_ARGS)

mutants: build ## change src/ in one place at a time: do the tests notice? (see test/mutants/README.md)
	npx tsx test/mutants/typescript/run.ts $(MUTANT_ARGS)

mutants-record: build ## which tests reach which function, for make mutants; an hour
	npx tsx test/mutants/typescript/record.ts $(MUTANT_ARGS)

mutants-native: build ## plant faults in the native sources, one at a time: do the tests notice? (see test/mutants/README.md)
	npx tsx test/mutants/native/run.ts $(MUTANT_ARGS)

demo: build ## show live portfolio risk on real prices, in the terminal
	npx tsx examples/risk/demo.ts

demo-flights: build ## count and rank 220,000 real flights live
	npx tsx examples/flights/demo.ts

bench: build ## measure beside baselines (see docs/internals/BENCHMARKS.md)
	npx tsx bench/main.ts $(BENCH_ARGS)

bench-compare: build ## is this build slower than another checkout's? BEFORE=../other (built)
	npx tsx bench/compare.ts --before '$(BEFORE)' $(BENCH_ARGS)

image-check: node_modules/.installed ## the steps of deploy/docker/Dockerfile without docker, and the image they make; needs root and debootstrap
	npx tsx test/deploy/try-image.ts

lint: node_modules/.installed ## types, style, format and the rules of the house
	npx tsc -p tsconfig.check.json
	npx biome check
	scripts/lint-native.sh
	$(TAP) test/house

format: node_modules/.installed ## rewrite the format of all sources, imports and wide comments
	npx tsx scripts/wrap-comments.ts
	scripts/lint-native.sh --write
	npx biome check --write

gpu-bundle: build ## write .gpu/, a bundle for a CUDA machine without Node (see docs/internals/TESTING.md)
	scripts/gpu-bundle.sh

docs: node_modules/.installed ## write the reference of mmsb and mmsb/client to build/docs
	npx typedoc

clean: ## remove everything that was built
	rm -rf dist prebuilt $(BUILD) .tap
