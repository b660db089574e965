# The native library. kernels.cu is the only translation unit; it is compiled in parts (see its head). g++ compiles the CPU
# kernels for x86-64-v3 and for plain x86-64, and the host part; nvcc, if it is found, compiles the CUDA part.
# `make native` builds for the machine's GPU, or for a default architecture; `make native-all` builds for all;
# `make native NVCC=` builds for the CPU alone.
#
# The npm package holds this file and all that `make native` needs. It also works by itself, with any shell:
# make -f native.mk native

.DEFAULT_GOAL := native
BUILD := build
LIB := $(BUILD)/libmmsb.so
NATIVE_SOURCES := kernels.cu $(shell find src/kernels/native -name '*.cuh' -o -name '*.h')
SAME_FILE := --no-print-directory -f $(firstword $(MAKEFILE_LIST))

.PHONY: native native-all
native: $(LIB) ## build the native library: with CUDA where nvcc is found, else for the CPU

empty :=
comma := ,
space := $(empty) $(empty)

NATIVE_DIR := $(BUILD)/native
VERSION := $(shell sed -n 's/.*"version": "\(.*\)".*/\1/p' package.json | head -1)
CXX ?= g++
NATIVE_WARN := -Wall -Wextra -Wno-unused-function -Wno-unknown-pragmas
# Sources include each other by their path from here: "core/op.cuh".
NATIVE_INCLUDE := -Isrc/kernels/native
NATIVE_FLAGS := $(NATIVE_INCLUDE) -x c++ -std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti \
  -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-strict-aliasing $(NATIVE_WARN) -DMMSB_VERSION='"$(VERSION)"'

$(NATIVE_DIR):
	@mkdir -p $@

$(NATIVE_DIR)/cpu_base.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/cpu_v3.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64-v3 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

# The headers that expressions compiled at run time include (cuda/ops/cuda_rtc.cuh), as C++ strings. Their names are their paths
# from the native root, as in every #include.
RTC_HEADERS := $(addprefix portable/,types.cuh math.cuh trig.cuh scalar.cuh scalar_cast.cuh ir_ops.cuh lane.cuh) \
  cuda/memory/cuda_sink.cuh cuda/ops/map_device.cuh
RTC_SOURCES := $(NATIVE_DIR)/rtc_sources.inc
RTC_INCLUDE := -I$(NATIVE_DIR) -DMMSB_RTC_SOURCES='"rtc_sources.inc"'

$(RTC_SOURCES): $(RTC_HEADERS:%=src/kernels/native/%) native.mk | $(NATIVE_DIR)
	@for name in $(RTC_HEADERS); do printf '"%s", R"MMSB_SOURCE(' $$name; cat src/kernels/native/$$name; printf ')MMSB_SOURCE",\n'; done >$@.tmp
	@mv $@.tmp $@

# ---- for the CPU alone ----------------------------------------------------------------------------------------------

CPU_LIB := $(NATIVE_DIR)/libmmsb_cpu.so
# Before glibc 2.34, threads were in a library of their own. Naming it lets a library built with a newer glibc load there.
PTHREAD_FILE := libpthread.so.0
PTHREAD := $(if $(filter /%,$(shell $(CXX) -print-file-name=$(PTHREAD_FILE))),\
  -Wl$(comma)--no-as-needed -l:$(PTHREAD_FILE) -Wl$(comma)--as-needed,-lpthread)

# Carries what it needs of the libraries of g++.
$(CPU_LIB): $(NATIVE_DIR)/host.o $(NATIVE_DIR)/cpu_base.o $(NATIVE_DIR)/cpu_v3.o
	$(CXX) -shared -static-libstdc++ -static-libgcc -o $@.tmp $^ $(PTHREAD) -lm -Wl,--no-undefined,--exclude-libs,ALL
	@mv $@.tmp $@

# The library in the npm package, for Linux on x86-64 with glibc.
PREBUILT := prebuilt/linux-x64/libmmsb.so

$(PREBUILT): $(NATIVE_SOURCES) native.mk | $(LIB)
	@mkdir -p $(@D)
	@$(MAKE) $(SAME_FILE) $(CPU_LIB)
	strip -o $@.tmp $(CPU_LIB)
	@mv $@.tmp $@

# ---- with CUDA, if nvcc is found ------------------------------------------------------------------------------------

NVCC := $(shell command -v nvcc 2>/dev/null)
ifeq ($(NVCC),)
BUILT_LIB := $(CPU_LIB)
else
# The GPU of this machine, as 90 for compute capability 9.0.
GPU_ARCH := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
CUDA_ARCHS ?= $(if $(GPU_ARCH),$(GPU_ARCH),80)
CUDA_TAG := $(subst $(space),_,$(strip $(CUDA_ARCHS)))
# Machine code for each architecture, and PTX for the last one, which newer GPUs translate.
CUDA_CODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHS))$(comma)code=compute_$(lastword $(CUDA_ARCHS))
CUDA_NAMES := $(subst $(space),$(comma),$(foreach a,$(CUDA_ARCHS),\"sm_$(a)\"))
CUDA_FLAGS := $(NATIVE_INCLUDE) -x cu -std=c++17 -O3 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false --threads 2 -cudart static \
  -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-ffp-contract=off,-fno-strict-aliasing $(CUDA_CODE)
NATIVE_OBJECTS := $(NATIVE_DIR)/host_$(CUDA_TAG).o $(NATIVE_DIR)/cpu_base.o $(NATIVE_DIR)/cpu_v3.o $(NATIVE_DIR)/cuda_$(CUDA_TAG).o

$(NATIVE_DIR)/host_$(CUDA_TAG).o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) -march=x86-64 -DMMSB_PART=1 -DMMSB_HAS_CUDA -DMMSB_CUDA_ARCHS='"$(CUDA_NAMES)"' -c kernels.cu -o $@

$(NATIVE_DIR)/cuda_$(CUDA_TAG).o: $(NATIVE_SOURCES) $(RTC_SOURCES) native.mk | $(NATIVE_DIR)
	$(NVCC) $(CUDA_FLAGS) -DMMSB_PART=3 -DMMSB_HAS_CUDA $(RTC_INCLUDE) -c kernels.cu -o $@

BUILT_LIB := $(NATIVE_DIR)/libmmsb_$(CUDA_TAG).so

# nvcc knows where the static runtime is.
$(BUILT_LIB): $(NATIVE_OBJECTS)
	$(NVCC) -shared -cudart static -o $@.tmp $^ -lpthread -lm -ldl -Xlinker --exclude-libs=ALL -Xlinker --no-undefined
	@mv $@.tmp $@
endif

# Compiles two parts at a time; unchanged parts are kept.
.PHONY: native-parts
native-parts:
	@$(MAKE) $(SAME_FILE) -j2 $(BUILT_LIB)
	@cp $(BUILT_LIB) $(LIB).tmp && mv $(LIB).tmp $(LIB)

$(LIB): $(NATIVE_SOURCES) native.mk
	@mkdir -p $(BUILD)
	@$(MAKE) $(SAME_FILE) native-parts

native-all: ## build the native library for all supported GPUs (sm_75, sm_80, sm_90 and PTX)
	@$(MAKE) $(SAME_FILE) native-parts CUDA_ARCHS="75 80 90"

# ---- the core's test driver ------------------------------------------------------------------------------------------

CORE_TEST_SOURCES := $(wildcard test/native/core/*)

$(NATIVE_DIR)/core_test: $(CORE_TEST_SOURCES) $(LIB) native.mk
	$(CXX) $(NATIVE_INCLUDE) -std=c++17 -O2 -Wall -Wextra -ffp-contract=off test/native/core/core_test.cpp -o $@ -L$(BUILD) -lmmsb -Wl,-rpath,'$$ORIGIN/..'

$(NATIVE_DIR)/core_bench: $(CORE_TEST_SOURCES) $(LIB) native.mk
	$(CXX) $(NATIVE_INCLUDE) -std=c++17 -O2 -Wall -Wextra test/native/core/core_bench.cpp -o $@ -L$(BUILD) -lmmsb -Wl,-rpath,'$$ORIGIN/..'

# ---- under sanitizers ----------------------------------------------------------------------------------------------

# Names that end with _debug: address and undefined-behaviour checks. With _race: the thread sanitizer.
SANITIZE := -g1 -O1 -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer
RACE := -g1 -O1 -fsanitize=thread -fno-omit-frame-pointer

DEBUG_OBJECTS := $(NATIVE_DIR)/debug_host.o $(NATIVE_DIR)/debug_cpu_base.o $(NATIVE_DIR)/debug_cpu_v3.o
RACE_OBJECTS := $(NATIVE_DIR)/race_host.o $(NATIVE_DIR)/race_cpu_base.o

$(NATIVE_DIR)/debug_host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

# Sizes at which code changes its path are small here, so that small graphs cross them (core/op.cuh).
$(NATIVE_DIR)/debug_cpu_base.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -DMMSB_SMALL_SIZES -march=x86-64 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/debug_cpu_v3.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(SANITIZE) -march=x86-64-v3 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/race_host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(RACE) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

$(NATIVE_DIR)/race_cpu_base.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(RACE) -march=x86-64 -DMMSB_PART=2 -c kernels.cu -o $@

$(NATIVE_DIR)/core_debug: $(CORE_TEST_SOURCES) $(DEBUG_OBJECTS) native.mk
	$(CXX) $(NATIVE_INCLUDE) -std=c++17 $(SANITIZE) -ffp-contract=off test/native/core/core_test.cpp $(DEBUG_OBJECTS) -o $@ -lpthread

# How work is cut does not depend on the instruction set, so one build of the kernels stands for both.
$(NATIVE_DIR)/core_race: $(CORE_TEST_SOURCES) $(RACE_OBJECTS) native.mk
	$(CXX) $(NATIVE_INCLUDE) -std=c++17 $(RACE) -ffp-contract=off test/native/core/core_test.cpp $(RACE_OBJECTS) -o $@ -lpthread \
	  -Wl,--defsym=_ZN4mmsb6kCpuV3E=_ZN4mmsb8kCpuBaseE

.PHONY: native-debug
native-debug: $(NATIVE_DIR)/core_debug ## run the native core's tests under the address and undefined-behaviour sanitizers
	$(NATIVE_DIR)/core_debug

# The drivers that include the code they test.
DRIVER_FLAGS := $(NATIVE_INCLUDE) -x c++ -std=gnu++17 -w -ffp-contract=off -fno-math-errno -fno-trapping-math
DRIVER_SOURCES := test/native/vm_cases.h $(NATIVE_SOURCES) native.mk
DRIVER_ISA := $(if $(shell grep -m 1 ' avx2 ' /proc/cpuinfo),x86-64-v3,x86-64)

$(NATIVE_DIR)/%_debug: test/native/%.cpp $(DRIVER_SOURCES) | $(NATIVE_DIR)
	$(CXX) $(DRIVER_FLAGS) $(SANITIZE) -march=$(DRIVER_ISA) $< -o $@ -lpthread -lquadmath

$(NATIVE_DIR)/%_race: test/native/%.cpp $(DRIVER_SOURCES) | $(NATIVE_DIR)
	$(CXX) $(DRIVER_FLAGS) $(RACE) -march=$(DRIVER_ISA) $< -o $@ -lpthread

# The same objects as a library, for Node with the sanitizers loaded before it.
$(NATIVE_DIR)/libmmsb_debug.so: $(DEBUG_OBJECTS)
	$(CXX) -shared $(SANITIZE) -o $@ $(DEBUG_OBJECTS) -lpthread -lm

SANITIZED := $(addprefix $(NATIVE_DIR)/,core_debug core_race vm_debug math_debug pool_debug pool_race libmmsb_debug.so)
SANITIZE_SIZE ?= full
.PHONY: sanitize sanitized
sanitized: $(SANITIZED)
sanitize: build ## the native tests and a fuzz under the address, undefined-behaviour and thread sanitizers (SANITIZE_SIZE=small)
	@$(MAKE) --no-print-directory -j2 sanitized
	MMSB_SANITIZE=$(SANITIZE_SIZE) npx tsx test/native/sanitizers.ts

MUTANTS ?= 2000
.PHONY: fuzz
fuzz: build $(NATIVE_DIR)/libmmsb_debug.so ## damaged files through check, open, restore and import, under the sanitizers (MUTANTS=2000)
	MMSB_LIBRARY=$(abspath $(NATIVE_DIR)/libmmsb_debug.so) MMSB_FUZZ_MUTANTS=$(MUTANTS) TAP_TIMEOUT=7200 ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" node --import tsx test/fuzz/fuzz.test.ts

# The CUDA backend for machines without a GPU: its code compiled for the host over test/native/cuda_emulator.h.
EMULATED := -O2 -DMMSB_HAS_CUDA -DMMSB_CUDA_ARCHS='"\"emulated\""'
EMULATED_PROGRAMS = $(NATIVE_DIR)/core_emulated $(NATIVE_DIR)/libmmsb_emulated.so $(NATIVE_DIR)/rtc_run
EMULATED_OBJECTS := $(NATIVE_DIR)/emulated_host.o $(NATIVE_DIR)/emulated_cuda.o $(NATIVE_DIR)/cpu_base.o $(NATIVE_DIR)/cpu_v3.o

$(NATIVE_DIR)/emulated_host.o: $(NATIVE_SOURCES) native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(EMULATED) -march=x86-64 -DMMSB_PART=1 -c kernels.cu -o $@

$(NATIVE_DIR)/emulated_cuda.o: $(NATIVE_SOURCES) test/native/cuda_emulator.h native.mk | $(NATIVE_DIR)
	$(CXX) $(NATIVE_FLAGS) $(EMULATED) -march=x86-64 -DMMSB_PART=3 -include test/native/cuda_emulator.h -c kernels.cu -o $@

$(NATIVE_DIR)/core_emulated: $(CORE_TEST_SOURCES) $(EMULATED_OBJECTS) native.mk
	$(CXX) $(NATIVE_INCLUDE) -std=c++17 -O2 -ffp-contract=off test/native/core/core_test.cpp $(EMULATED_OBJECTS) -o $@ -lpthread

# The same as a library, for tests that load it through the ABI (MMSB_LIBRARY).
$(NATIVE_DIR)/libmmsb_emulated.so: $(EMULATED_OBJECTS) native.mk
	$(CXX) -shared -o $@ $(EMULATED_OBJECTS) -lpthread -lm -Wl,--no-undefined

# Expressions as CUDA source (test/native/rtc.cpp): one driver writes and compiles them, another runs what the first wrote.
RTC_PROGRAMS := 150
RTC_BUILD := $(CXX) $(NATIVE_INCLUDE) -x c++ -std=gnu++17 -O1 -w -ffp-contract=off -fno-math-errno -fno-trapping-math -march=x86-64
RTC_TEST_SOURCES := test/native/rtc.cpp test/native/vm_cases.h test/native/cuda_emulator.h $(NATIVE_SOURCES)

$(NATIVE_DIR)/rtc: $(RTC_TEST_SOURCES) $(RTC_SOURCES) native.mk
	$(RTC_BUILD) $(RTC_INCLUDE) test/native/rtc.cpp -o $@ -ldl

$(NATIVE_DIR)/rtc_generated.inc: $(NATIVE_DIR)/rtc
	$< source 0 $(RTC_PROGRAMS) >$@.tmp
	@mv $@.tmp $@

$(NATIVE_DIR)/rtc_run: $(NATIVE_DIR)/rtc_generated.inc
	$(RTC_BUILD) -I$(NATIVE_DIR) -DMMSB_GENERATED='"$(notdir $<)"' test/native/rtc.cpp -o $@ -ldl
