#!/usr/bin/python3
"""A receiver of webhooks that does as it is told.

    webhook_server.py RECORD [--port PORT] [--secret WHSEC] [--tls CERTIFICATE KEY]
        [--strict] [--idle SECONDS]

Prints its port. What to do stands in the message's payload, or in the metadata of
an event: {"answer": ...}, a list for one answer after the other (by message): a
status, or "stall", "close", "huge", "drip", "drip after 200", "half", "redirect";
{"delay": seconds}; {"after": seconds} for Retry-After; {"to": URL} for Location.
Without any it answers 200. With --strict, 401 unless the first signature is right;
with --idle it closes connections that have been idle for so long.

Each request is written to the file RECORD as a line of JSON: when, path,
headers, body, the connection, how many were under way, and with --secret
whether the signature is right, and which of them.
"""
import argparse
import base64
import hashlib
import hmac
import http.server
import json
import ssl
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument('record')
parser.add_argument('--port', type=int, default=0)
parser.add_argument('--secret')
parser.add_argument('--tls', nargs=2)
parser.add_argument('--strict', action='store_true')
parser.add_argument('--idle', type=float)
arguments = parser.parse_args()

lock = threading.Lock()
record = open(arguments.record, 'a')
seen = {}
under_way = 0


def signature(message_id, timestamp, body):
    key = base64.b64decode(arguments.secret.removeprefix('whsec_'))
    text = message_id.encode() + b'.' + timestamp.encode() + b'.' + body
    return 'v1,' + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    timeout = arguments.idle

    def log_message(self, *anything):
        pass

    def write(self, body, verified):
        with lock:
            record.write(json.dumps({
                'at': time.time(), 'path': self.path, 'method': self.command,
                'headers': {name.lower(): value for name, value in self.headers.items()},
                'names': [name.lower() for name, value in self.headers.items()],
                'body': body.decode(), 'connection': self.client_address[1],
                'under_way': under_way, 'verified': verified}) + '\n')
            record.flush()

    def verified(self, body):
        if not arguments.secret:
            return None
        given = (self.headers.get('webhook-signature') or '').split(' ')
        right = signature(self.headers['webhook-id'], self.headers['webhook-timestamp'], body)
        recent = abs(time.time() - int(self.headers['webhook-timestamp'])) < 60
        return given.index(right) + 1 if recent and right in given else 0

    def wish(self, body):
        try:
            wish = json.loads(body)
        except ValueError:
            return {}
        if isinstance(wish, dict) and 'specversion' in wish:
            wish = wish.get('data')
        # Of an event, it is the metadata that the caller gave.
        if isinstance(wish, dict) and 'event_id' in wish:
            wish = wish.get('metadata')
        return wish if isinstance(wish, dict) else {}

    def answer(self, wish):
        answer = wish.get('answer', 200)
        if not isinstance(answer, list):
            return answer
        with lock:
            n = seen.get(self.headers['webhook-id'], 0)
            seen[self.headers['webhook-id']] = n + 1
        return answer[min(n, len(answer) - 1)]

    def do_POST(self):
        global under_way
        with lock:
            under_way += 1
        try:
            body = self.rfile.read(int(self.headers.get('content-length') or 0))
            verified = self.verified(body)
            self.write(body, verified)
            if arguments.strict and verified != 1:
                self.respond(401, {})
                return
            wish = self.wish(body)
            time.sleep(wish.get('delay', 0))
            self.respond(self.answer(wish), wish)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with lock:
                under_way -= 1

    do_GET = do_POST

    def respond(self, answer, wish):
        if answer == 'stall':
            time.sleep(60)
        elif answer == 'close':
            self.close_connection = True
            self.connection.close()
        elif answer == 'huge':
            self.send_response(200)
            self.send_header('Content-Length', str(1 << 40))
            self.end_headers()
            while True:
                self.wfile.write(b'x' * 65536)
        elif answer in ('drip', 'drip after 200'):
            status = b'103 Early Hints' if answer == 'drip' else b'200 OK'
            self.wfile.write(b'HTTP/1.1 ' + status + b'\r\nX-Drip: ')
            while True:
                self.wfile.write(b'x')
                self.wfile.flush()
                time.sleep(0.1)
        elif answer == 'half':
            self.send_response(200)
            self.send_header('Content-Length', '10')
            self.end_headers()
            self.wfile.write(b'x')
            self.close_connection = True
        else:
            self.send_response(302 if answer == 'redirect' else answer)
            if 'to' in wish:
                self.send_header('Location', wish['to'])
            if 'after' in wish:
                self.send_header('Retry-After', str(wish['after']))
            self.send_header('Content-Length', '2')
            self.end_headers()
            self.wfile.write(b'ok')


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        pass


server = Server(('127.0.0.1', arguments.port), Handler)
if arguments.tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*arguments.tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
