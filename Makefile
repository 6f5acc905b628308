EXTENSION = inventory
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" inventory.control)
MODULE_big = inventory
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PGFILEDESC = "inventory - inventory engine"

# The install script is joined from one file per capability, in this order.
SQL = schema clock catalog event outbox endpoint subscription delivery stat_subscription partition tick request movement reservation \
	availability projection stat progress archive maintenance command history chain worker verify rebuild restore access
DATA = $(wildcard sql/upgrade/$(EXTENSION)--*.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = $(EXTENSION)--*.sql $(EXTENSION)_sink_*.so src/sink/*.o

PG_CPPFLAGS = -I$(srcdir)/src -DINVENTORY_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare

# Each sink is a library of its own, loaded only by what delivers to it; one
# whose client library is not there (as pkg-config knows it) is left out.
NEEDS_http = libcurl libcrypto
NEEDS_rabbitmq = librabbitmq openssl
NEEDS_redis = hiredis openssl
NEEDS_kafka = rdkafka
NEEDS_amqp_session = $(NEEDS_rabbitmq)
NEEDS_redis_session = $(NEEDS_redis)
NEEDS_kafka_producer = $(NEEDS_kafka)
# Of what else a sink consists.
PARTS_http = http_address http_signature
PARTS_rabbitmq = amqp_session buffer connection option
PARTS_redis = redis_session buffer connection option
PARTS_kafka = kafka_producer

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

PARTS_OF_SINKS = $(sort magic $(foreach sink,http rabbitmq redis kafka,$(PARTS_$(sink))))
SOURCES_OF_SINKS = $(filter-out $(PARTS_OF_SINKS:%=src/sink/%.c),$(wildcard src/sink/*.c))
SINKS := $(foreach sink,$(SOURCES_OF_SINKS:src/sink/%.c=%),\
	$(shell pkg-config --exists $(NEEDS_$(sink)) 2>/dev/null && echo $(sink)))
SINKS_LEFT_OUT = $(filter-out $(SINKS),$(SOURCES_OF_SINKS:src/sink/%.c=%))
SINK_LIBRARIES = $(SINKS:%=$(EXTENSION)_sink_%$(DLSUFFIX))

.PHONY: install-sinks uninstall-sinks
all: $(SINK_LIBRARIES)
	@$(foreach sink,$(SINKS_LEFT_OUT),echo "Without the sink $(sink): pkg-config finds no $(NEEDS_$(sink))";)
install: install-sinks
install-sinks: $(SINK_LIBRARIES) | installdirs
	$(if $(SINKS),$(INSTALL_SHLIB) $(SINK_LIBRARIES) '$(DESTDIR)$(pkglibdir)/')
uninstall: uninstall-sinks
uninstall-sinks:
	rm -f $(SOURCES_OF_SINKS:src/sink/%.c='$(DESTDIR)$(pkglibdir)/$(EXTENSION)_sink_%$(DLSUFFIX)')

# They need no name of another's, nor give one away.
src/sink/%.o: override CFLAGS += $(if $(filter-out magic,$(*F)),-fvisibility=hidden) $(if $(NEEDS_$(*F)),$(shell pkg-config --cflags $(NEEDS_$(*F))))
$(SINKS:%=src/sink/%.o) $(PARTS_OF_SINKS:%=src/sink/%.o): $(wildcard src/sink/*.h) Makefile
$(foreach sink,$(SINKS),$(eval $(EXTENSION)_sink_$(sink)$(DLSUFFIX): $(PARTS_$(sink):%=src/sink/%.o)))
$(EXTENSION)_sink_%$(DLSUFFIX): src/sink/%.o src/sink/magic.o
	$(LINK.shared) -o $@ $^ $(LDFLAGS) $(LDFLAGS_SL) $(shell pkg-config --libs $(NEEDS_$*))

# \quit keeps psql from running the script without CREATE EXTENSION.
$(DATA_built): $(SQL:%=sql/%.sql) Makefile inventory.control
	printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit' > $@
	cat $(SQL:%=sql/%.sql) >> $@
endif
