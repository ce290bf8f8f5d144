# SPDX-License-Identifier: GPL-2.0-only
"""Configurations and programs of the servers of tried.py."""

PORT = 18080
# Not below /run, where nothing may be executed.
HERE = "/opt/fsbench-servers"
FOLDER = "/run/fsbench-servers"

APP = '''
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
application = app
'''
ASGI = '''
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
'''
ASYNCIO = '''
import asyncio, os, socket
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nok")
    await writer.drain()
    writer.close()
async def main(sock):
    await (await asyncio.start_server(serve, sock=sock)).serve_forever()
if os.environ.get("LISTEN_FDS"):
    sock = socket.socket(fileno=3)
else:
    sock = socket.create_server(("127.0.0.1", %d), backlog=512)
any(not os.fork() for _ in range(3))
asyncio.run(main(sock))
''' % PORT
SOCKETSERVER = '''
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline() not in (b"\\r\\n", b""):
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nok")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 512
Server(("127.0.0.1", %d), Handler).serve_forever()
''' % PORT
# Reloaded as its manual says: a new worker listens, then an old one is disconnected.
NODE = '''
const cluster = require("cluster"), http = require("http");
if (cluster.isPrimary) {
  for (let i = 0; i < 3; i++) cluster.fork();
  process.on("SIGHUP", () => {
    for (const old of Object.values(cluster.workers))
      cluster.fork().on("listening", () => old.disconnect());
  });
} else {
  http.createServer((q, r) => r.end("ok")).listen(%d, "127.0.0.1");
}
''' % PORT
# It answers with status 200 if it may run on all cores.
CGI = '''
while read name value; do
    [ "$name" != Cpus_allowed_list: ] || break
done < /proc/self/status
[ "$value" = ALL_CPUS ] || echo "Status: 500"
printf "\\n$value"
'''


def nginx(listen="", events="", daemon="off"):
    return f'''
worker_processes 4; daemon {daemon}; pid {FOLDER}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; {events} }}
http {{ access_log off; server {{ listen 127.0.0.1:{PORT} backlog=512{listen};
    location / {{ return 200 "ok"; }} }} }}
'''


def apache(mpm):
    return f'''
ServerRoot {FOLDER}
ServerName fsb
User www-data
Group www-data
LoadModule mpm_{mpm}_module /usr/lib/apache2/modules/mod_mpm_{mpm}.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
PidFile {FOLDER}/apache.pid
ErrorLog {FOLDER}/apache.log
DocumentRoot {FOLDER}/www
ListenBackLog 512
Listen 127.0.0.1:{PORT}
Listen 127.0.0.1:{PORT + 1}
StartServers 4
'''


def haproxy(more=""):
    return f'''
global
    nbthread 4
    maxconn 1000
    {more}
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 10s
frontend f
    bind 127.0.0.1:{PORT} backlog 512
    http-request return status 200 content-type text/plain string ok
'''


def php_fpm(manager):
    return f'''
[global]
error_log = {FOLDER}/php-fpm.log
[www]
user = www-data
group = www-data
listen = 127.0.0.1:{PORT}
listen.backlog = 512
pm = {manager}
pm.max_children = 4
pm.process_idle_timeout = 1s
'''


LIGHTTPD = f'''
server.document-root = "{FOLDER}/www"
server.bind = "127.0.0.1"
server.port = {PORT}
server.max-worker = 4
server.listen-backlog = 512
index-file.names = ( "index.html" )
mimetype.assign = ( ".html" => "text/html" )
'''
LIGHTTPD_CGI = LIGHTTPD.replace("index.html", "index.sh") + '''
server.modules += ( "mod_cgi" )
cgi.assign = ( ".sh" => "/bin/sh" )
'''
