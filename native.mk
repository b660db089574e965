# The native library. kernels.cu is the one translation unit; it is compiled in parts (see its head):
# the CPU kernels once for x86-64-v3 and once for plain x86-64, both by g++, and the rest by nvcc where it is found, else by g++.
$(LIB): $(NATIVE_SOURCES)
	@mkdir -p $(BUILD)
	@echo "not there yet" && false
