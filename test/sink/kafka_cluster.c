/*-------------------------------------------------------------------------
 *
 * kafka_cluster.c
 *		The mock cluster of librdkafka: brokers that speak Kafka's protocol on
 *		loopback and keep what they get in memory.
 *
 *	 kafka_cluster BROKERS
 *
 * Says where it is, then does what it is told, a line each, and answers "done":
 *
 *	 topic NAME PARTITIONS
 *	 topic_error NAME CODE			what metadata says of it; 0: nothing wrong
 *	 errors API COUNT CODE			the next answers to requests of this kind
 *	 down BROKER | up BROKER
 *	 delay BROKER MS				of each answer
 *
 *-------------------------------------------------------------------------
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rd_kafka_mock_cluster_t *cluster;

static int
command(char *line)
{
	char		name[256];
	int			a;
	int			b;
	int			c;

	if (sscanf(line, "topic %255s %d", name, &a) == 2)
		return rd_kafka_mock_topic_create(cluster, name, a, 1);
	if (sscanf(line, "topic_error %255s %d", name, &a) == 2)
	{
		rd_kafka_mock_topic_set_error(cluster, name, (rd_kafka_resp_err_t) a);
		return 0;
	}
	if (sscanf(line, "errors %d %d %d", &a, &b, &c) == 3)
	{
		while (b-- > 0)
			rd_kafka_mock_push_request_errors(cluster, (int16_t) a, 1, (rd_kafka_resp_err_t) c);
		return 0;
	}
	if (sscanf(line, "down %d", &a) == 1)
		return rd_kafka_mock_broker_set_down(cluster, a);
	if (sscanf(line, "up %d", &a) == 1)
		return rd_kafka_mock_broker_set_up(cluster, a);
	if (sscanf(line, "delay %d %d", &a, &b) == 2)
		return rd_kafka_mock_broker_set_rtt(cluster, a, b);
	return -1;
}

int
main(int argc, char **argv)
{
	char		error[256];
	char		line[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;

	setvbuf(stdout, NULL, _IOLBF, 0);
	rd_kafka_conf_set(conf, "log_level", "0", error, sizeof(error));
	client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	cluster = client != NULL ? rd_kafka_mock_cluster_new(client, argc > 1 ? atoi(argv[1]) : 1) : NULL;
	if (cluster == NULL)
		return 1;
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	while (fgets(line, sizeof(line), stdin) != NULL)
		printf("%s\n", command(line) == 0 ? "done" : "failed");
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(client);
	return 0;
}
