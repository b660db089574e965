// A library linked with a new glibc asks for the newest version of each symbol, which an old glibc does not
// have. The new versions of these symbols change nothing for us, so the library asks for the first: it needs
// no glibc newer than 2.17. test/package checks that.
#pragma once

#include <stdlib.h>

// Sanitizers bring their own versions of these.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Moved from libpthread to libc in 2.34.
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join,pthread_join@GLIBC_2.2.5");
__asm__(".symver pthread_once,pthread_once@GLIBC_2.2.5");
// Sets no errno since 2.38.
__asm__(".symver fmod,fmod@GLIBC_2.2.5");
#endif
