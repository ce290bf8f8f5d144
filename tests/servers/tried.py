# SPDX-License-Identifier: GPL-2.0-only
"""The table of real servers, from Debian's packages: how each is run, asked and reloaded."""

PORT = 18080
FOLDER = "/run/fsbench-servers"
HTTP = ("GET / HTTP/1.0\r\nHost: fsb\r\n\r\n".encode(), b"200 OK")

APP = '''
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
application = app
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
    for _ in range(3):
        if not os.fork():
            break
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
NODE = '''
const cluster = require("cluster"), http = require("http");
if (cluster.isPrimary) {
  for (let i = 0; i < 3; i++) cluster.fork();
  cluster.on("exit", () => cluster.fork());
} else {
  http.createServer((q, r) => r.end("ok")).listen(%d, "127.0.0.1");
}
''' % PORT


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


HAPROXY = f'''
global
    nbthread 4
    maxconn 1000
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 10s
frontend f
    bind 127.0.0.1:{PORT} backlog 512
    http-request return status 200 content-type text/plain string ok
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
HUP = "kill -HUP $MAIN"
USR1 = "kill -USR1 $MAIN"
USR2 = "kill -USR2 $MAIN"
# It takes USR2 only as a daemon.
UPGRADE = (f"kill -USR2 $(cat {FOLDER}/nginx.pid); "
           f"for i in $(seq 50); do [ -e {FOLDER}/nginx.pid.oldbin ] && break; sleep 0.1; done; "
           "sleep 1; "
           f"kill -WINCH $(cat {FOLDER}/nginx.pid.oldbin); sleep 1; "
           f"kill -QUIT $(cat {FOLDER}/nginx.pid.oldbin)")
CONF = f"{FOLDER}/conf"


def server(command, conf="", ask=HTTP, reload=None, unit="", gains=True):
    """conf is written to CONF; unit: options of its unit; gains: workers wait with epoll."""
    return {"command": command, "conf": conf, "ask": ask, "reload": reload, "unit": unit,
            "needs": command.split()[0], "gains": gains}


SERVERS = {
    "nginx": server(f"nginx -c {CONF}", nginx(), reload=HUP),
    "nginx, upgrade": server(f"nginx -c {CONF}", nginx(daemon="on"), reload=UPGRADE,
                             unit=f"-p Type=forking -p PIDFile={FOLDER}/nginx.pid"),
    "nginx, accept_mutex": server(f"nginx -c {CONF}", nginx(events="accept_mutex on;"), reload=HUP),
    "nginx, reuseport": server(f"nginx -c {CONF}", nginx(" reuseport"), gains=False),
    "HAProxy": server(f"haproxy -db -f {CONF}", HAPROXY),
    "HAProxy -W": server(f"haproxy -W -db -f {CONF}", HAPROXY, reload=f"{USR2}; sleep 2; " * 3),
    "Redis, io-threads": server(
        f"redis-server --bind 127.0.0.1 --port {PORT} --save '' --io-threads 4 --dir {FOLDER}",
        ask=(b"PING\r\n", b"+PONG"), gains=False,
        reload=f"printf 'BGSAVE\\r\\n' | timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}; "
               "cat >&3; head -1 <&3'"),
    "Apache prefork": server(f"apache2 -DFOREGROUND -f {CONF}", apache("prefork"), reload=USR1),
    "Apache worker": server(f"apache2 -DFOREGROUND -f {CONF}", apache("worker"), reload=USR1),
    "Apache event": server(f"apache2 -DFOREGROUND -f {CONF}", apache("event"), reload=USR1),
    "lighttpd": server(f"lighttpd -D -f {CONF}", LIGHTTPD),
    "memcached": server(f"memcached -u root -l 127.0.0.1 -p {PORT} -t 4",
                        ask=(b"version\r\n", b"VERSION"), gains=False),
    "gunicorn sync": server(f"gunicorn -w 4 -b 127.0.0.1:{PORT} --chdir {FOLDER} conf:app",
                            APP, reload=HUP, gains=False),
    "gunicorn gthread": server(
        f"gunicorn -w 4 -k gthread --threads 2 -b 127.0.0.1:{PORT} --chdir {FOLDER} conf:app", APP,
        reload=HUP),
    "uWSGI, thunder-lock": server(
        f"uwsgi --plugin python3 --http-socket 127.0.0.1:{PORT} --wsgi-file {CONF} --master "
        "--processes 4 --thunder-lock --listen 100", APP, reload=HUP),
    "Node cluster": server(f"node {CONF}", NODE, gains=False,
                           reload="kill $(cat /proc/$MAIN/task/$MAIN/children | cut -d' ' -f1)"),
    "asyncio": server(f"python3 {CONF}", ASYNCIO),
    "systemd-socket-activate": server(
        f"systemd-socket-activate -l 127.0.0.1:{PORT} -E LD_PRELOAD python3 {CONF}", ASYNCIO,
        gains=False),
    "socketserver": server(f"python3 {CONF}", SOCKETSERVER, gains=False),
}
