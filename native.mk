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
