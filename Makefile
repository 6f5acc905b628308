EXTENSION = inventory
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" inventory.control)
MODULE_big = inventory
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PGFILEDESC = "inventory - inventory engine"

# The install script is joined from one file per capability, in this order.
SQL = schema clock catalog event outbox endpoint subscription partition tick request movement reservation \
	availability projection stat progress archive maintenance history chain worker verify rebuild restore access
DATA = $(wildcard sql/upgrade/$(EXTENSION)--*.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = $(EXTENSION)--*.sql $(EXTENSION)_sink_*.so src/sink/*.o

PG_CPPFLAGS = -I$(srcdir)/src -DINVENTORY_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare

# Each sink is a library of its own, of src/sink/NAME.c and src/sink/NAME_*.c,
# loaded only by what delivers to it; one whose client library is not there (as
# pkg-config knows it) is left out.
NEEDS_http = libcurl libcrypto
NEEDS_rabbitmq = librabbitmq
NEEDS_redis = hiredis
NEEDS_kafka = rdkafka

# For a running server that preloads the library; `make test` starts its own.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test

# These install what they need, PostgreSQL included, and come back to this file
# for `all` and `install`, so they must work where there is no PGXS yet.
COMMANDS = demo demo-stop test bench test-versions check-clang
.PHONY: all $(COMMANDS)
all:
$(COMMANDS):
	+@scripts/$@

ifeq ($(filter $(COMMANDS),$(MAKECMDGOALS)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# Bitcode serves the inlining of cheap functions into expressions; there are none.
override with_llvm = no
include $(PGXS)

$(OBJS): $(wildcard src/*.h) Makefile

ALL_SINKS = $(filter $(patsubst NEEDS_%,%,$(filter NEEDS_%,$(.VARIABLES))),\
	$(patsubst src/sink/%.c,%,$(wildcard src/sink/*.c)))
SINKS := $(foreach sink,$(ALL_SINKS),$(shell pkg-config --exists $(NEEDS_$(sink)) && echo $(sink)))
SINKS_LEFT_OUT = $(filter-out $(SINKS),$(ALL_SINKS))
SINK_LIBRARIES = $(SINKS:%=$(EXTENSION)_sink_%$(DLSUFFIX))

.PHONY: install-sinks uninstall-sinks
all: $(SINK_LIBRARIES)
	@$(foreach sink,$(SINKS_LEFT_OUT),echo "Without the sink $(sink): pkg-config finds no $(NEEDS_$(sink))";)
install: install-sinks
install-sinks: $(SINK_LIBRARIES) | installdirs
	$(if $(SINKS),$(INSTALL_SHLIB) $(SINK_LIBRARIES) '$(DESTDIR)$(pkglibdir)/')
uninstall: uninstall-sinks
uninstall-sinks:
	rm -f $(ALL_SINKS:%='$(DESTDIR)$(pkglibdir)/$(EXTENSION)_sink_%$(DLSUFFIX)')

objects_of_sink = $(patsubst %.c,%.o,src/sink/$(1).c $(wildcard src/sink/$(1)_*.c) src/sink/magic.c)
define SINK
$(EXTENSION)_sink_$(1)$(DLSUFFIX): $(objects_of_sink)
	$$(LINK.shared) -o $$@ $$^ $$(LDFLAGS) $$(LDFLAGS_SL) $$(shell pkg-config --libs $(NEEDS_$(1)))
$(objects_of_sink): override CFLAGS += $(shell pkg-config --cflags $(NEEDS_$(1)))
$(objects_of_sink): $(wildcard src/sink/*.h) Makefile
endef
$(foreach sink,$(SINKS),$(eval $(call SINK,$(sink))))

# \quit keeps psql from running the script without CREATE EXTENSION.
$(DATA_built): $(SQL:%=sql/%.sql) Makefile inventory.control
	printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit' > $@
	cat $(SQL:%=sql/%.sql) >> $@
endif
