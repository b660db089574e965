# The native library. kernels.cu is the one translation unit; it is compiled in parts (see its head): the CPU kernels once
# for x86-64-v3 and once for plain x86-64, and the host part, always by g++; the CUDA part by nvcc where it is found.
# `make native` builds for the machine's GPU (without one: for the default architecture); `make native-all` for all.

NATIVE_DIR := $(BUILD)/native
VERSION := $(shell sed -n 's/.*"version": "\(.*\)".*/\1/p' package.json | head -1)
CXX ?= g++
NATIVE_WARN := -Wall -Wextra -Wno-unused-function -Wno-unknown-pragmas
NATIVE_FLAGS := -x c++ -std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti \
  -ffp-contract=off -fno-math-errno -fno-trapping-math $(NATIVE_WARN) -DMMSB_VERSION='"$(VERSION)"'

$(NATIVE_DIR):
	@mkdir -p $@

$(NATIVE_DIR)/cpu_base.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/cpu_v3.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64-v3 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

NATIVE_OBJECTS := $(NATIVE_DIR)/host.o $(NATIVE_DIR)/cpu_base.o $(NATIVE_DIR)/cpu_v3.o

$(LIB): $(NATIVE_OBJECTS)
	$(CXX) -shared -o $@.tmp $(NATIVE_OBJECTS) -lpthread -lm
	@mv $@.tmp $@

# ---- the core's test driver ------------------------------------------------------------------------------------------

CORE_TEST_SOURCES := test/native/core_test.cpp test/native/core_bench.cpp test/native/core_kit.h test/native/core_model.h

$(NATIVE_DIR)/core_test: $(CORE_TEST_SOURCES) $(LIB) native.mk
	$(CXX) -std=c++17 -O2 -Wall -Wextra -ffp-contract=off test/native/core_test.cpp -o $@ -L$(BUILD) -lmmsb -Wl,-rpath,'$$ORIGIN/..'

$(NATIVE_DIR)/core_bench: $(CORE_TEST_SOURCES) $(LIB) native.mk
	$(CXX) -std=c++17 -O2 -Wall -Wextra test/native/core_bench.cpp -o $@ -L$(BUILD) -lmmsb -Wl,-rpath,'$$ORIGIN/..'

# The CPU parts and the test driver in one program, with bounds and undefined behaviour checked.
SANITIZE := -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
DEBUG_OBJECTS := $(NATIVE_DIR)/debug_host.o $(NATIVE_DIR)/debug_cpu_base.o $(NATIVE_DIR)/debug_cpu_v3.o

$(NATIVE_DIR)/debug_host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

$(NATIVE_DIR)/debug_cpu_base.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -march=x86-64 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/debug_cpu_v3.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -march=x86-64-v3 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/core_debug: $(CORE_TEST_SOURCES) $(DEBUG_OBJECTS) native.mk
	$(CXX) -std=c++17 $(SANITIZE) -ffp-contract=off test/native/core_test.cpp $(DEBUG_OBJECTS) -o $@ -lpthread

.PHONY: native-debug
native-debug: $(NATIVE_DIR)/core_debug ## the native core's tests under the address and undefined-behaviour sanitizers
	$(NATIVE_DIR)/core_debug
