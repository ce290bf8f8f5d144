# SPDX-License-Identifier: GPL-2.0-only
"""The table of real servers, from Debian's packages: commands that run, ask and reload each."""
import struct

from confs import (APP, ASGI, ASYNCIO, CGI, FOLDER, HERE, LIGHTTPD, LIGHTTPD_CGI, NODE, PORT,
                   SOCKETSERVER, apache, haproxy, nginx, php_fpm)

CONF = f"{FOLDER}/conf"
HTTP = (b"GET / HTTP/1.0\r\nHost: fsb\r\n\r\n", b"200 OK")
HUP = "kill -HUP $MAIN"
USR1 = "kill -USR1 $MAIN"
USR2 = "kill -USR2 $MAIN"
# It takes USR2 only as a daemon, and finds its program only by a whole path.
UPGRADE = (f"kill -USR2 $(cat {FOLDER}/nginx.pid); "
           f"for i in $(seq 50); do [ -e {FOLDER}/nginx.pid.oldbin ] && "
           f"[ -e {FOLDER}/nginx.pid ] && break; sleep 0.1; done; "
           f"[ -e {FOLDER}/nginx.pid ] || {{ echo no new program >&2; exit 1; }}; sleep 1; "
           f"kill -WINCH $(cat {FOLDER}/nginx.pid.oldbin); sleep 1; "
           f"kill -QUIT $(cat {FOLDER}/nginx.pid.oldbin)")
# A hundred times, in turn to fewer workers and to more.
RELOADS = ("for i in $(seq 50); do for count in 2 8; do "
           f"sed -i \"s/worker_processes [0-9]*/worker_processes $count/\" {CONF}; "
           "kill -HUP $MAIN || exit; sleep 0.5; done; done")
BGSAVE = (f"printf 'BGSAVE\\r\\n' | timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}; "
          "cat >&3; head -1 <&3'")
# Its new program has no other variables of the old one's.
KEEP = "env LD_PRELOAD; env FSOCKET_BACKEND;"
DEMO = f"-w 4 -a 127.0.0.1:{PORT}"


def fast_cgi():
    """A request for index.php, and what the answer contains."""
    def record(kind, content):
        return struct.pack(">BBHHBx", 1, kind, 1, len(content), 0) + content
    script = f"{FOLDER}/www/index.php"
    named = {"SCRIPT_FILENAME": script, "SCRIPT_NAME": "/index.php", "REQUEST_METHOD": "GET"}
    params = b"".join(bytes([len(name), len(value)]) + name.encode() + value.encode()
                      for name, value in named.items())
    return (record(1, struct.pack(">HB5x", 1, 0)) + record(4, params) + record(4, b"")
            + record(5, b""), b"it is php")


def postgres():
    """The bytes that a client sends first, and a part of the answer."""
    said = struct.pack(">I", 196608) + b"user\0postgres\0database\0postgres\0\0"
    return struct.pack(">I", len(said) + 4) + said, b"server_version"


def server(command, conf="", gains=True, **more):
    """
    {run} in the command is where fsocketctl run stands, else that is in front. conf is written
    to CONF. gains: its workers wait with epoll; "module": but gain with that only. And more: ask,
    a request and what the answer contains; reload, a shell command; unit, options of its unit;
    files, below www; ports.
    """
    return {"ask": HTTP, "reload": None, "unit": "", "files": {}, "ports": [PORT],
            "needs": command.replace("{run}", "").split()[0], "gains": gains, "conf": conf,
            "command": command if "{run}" in command else "{run}" + command, **more}


def haproxies():
    """By itself it sets SO_REUSEPORT, which makes the kernel backend leave it alone."""
    yield "HAProxy, nbthread 4", server(f"haproxy -db -f {CONF}", haproxy(), "module")
    for option in ("tune.listener.multi-queue off", "noreuseport"):
        yield f"HAProxy, {option.replace('tune.listener.', '')}", server(
            f"haproxy -db -f {CONF}", haproxy(option),
            True if option == "noreuseport" else "module")
    yield "HAProxy -W, three reloads", server(f"haproxy -W -db -f {CONF}", haproxy(), "module",
                                              reload=f"{USR2}; sleep 2; " * 3)


def apaches():
    for mpm in ("prefork", "worker", "event"):
        yield f"Apache {mpm}, two Listen", server(
            f"apache2 -DFOREGROUND -f {CONF}", apache(mpm), reload=USR1, ports=[PORT, PORT + 1])


def gunicorns():
    for kind, gains in (("sync", False), ("gthread --threads 2", True), ("gevent", True)):
        yield f"gunicorn {kind.split()[0]}", server(
            f"gunicorn -w 4 -k {kind} -b 127.0.0.1:{PORT} --chdir {FOLDER} conf:app", APP, gains,
            reload=HUP)


def uwsgis():
    for name, option in (("thunder-lock", "--thunder-lock"), ("threads", "--threads 2")):
        yield f"uWSGI, {name}", server(
            f"uwsgi --plugin python3 --http-socket 127.0.0.1:{PORT} --wsgi-file {CONF} --master "
            "--die-on-term --disable-logging --worker-reload-mercy 5 --processes 4 "
            f"{option} --listen 100", APP, reload=HUP)


def php_fpms():
    for manager in ("static", "ondemand"):
        yield f"PHP-FPM {manager}, TCP", server(
            f"php-fpm8.2 -n -F -y {CONF}", php_fpm(manager), False, ask=fast_cgi(), reload=USR2,
            files={"index.php": "it is <?php echo 'php';"})


SERVERS = {
    "nginx": server(f"nginx -c {CONF}", nginx(), reload=HUP),
    "nginx, upgrade": server(f"/usr/sbin/nginx -c {CONF}", nginx(daemon="on") + KEEP,
                             reload=UPGRADE, unit=f"-p Type=forking -p PIDFile={FOLDER}/nginx.pid"),
    # Its workers take turns, so one at a time accepts, whichever core received the connection.
    "nginx, accept_mutex": server(f"nginx -c {CONF}", nginx(events="accept_mutex on;"), False,
                                  reload=HUP),
    "nginx, reuseport": server(f"nginx -c {CONF}", nginx(" reuseport"), False),
    "nginx, 100 reloads": server(f"nginx -c {CONF}", nginx(), reload=RELOADS),
    # The library leaves it alone. Each socket that nginx closes loses what waits there.
    "nginx, reuseport, 100 reloads": server(f"nginx -c {CONF}", nginx(" reuseport"), False,
                                            reload=RELOADS),
    **dict(haproxies()),
    **dict(apaches()),
    "lighttpd, max-worker": server(f"lighttpd -D -f {CONF}", LIGHTTPD),
    "lighttpd, CGI": server(f"lighttpd -D -f {CONF}", LIGHTTPD_CGI, files={"index.sh": CGI}),
    "memcached": server(f"memcached -u root -l 127.0.0.1 -p {PORT} -t 4", gains=False,
                        ask=(b"version\r\n", b"VERSION")),
    "Redis, io-threads, BGSAVE": server(
        f"redis-server --bind 127.0.0.1 --port {PORT} --save '' --io-threads 4 --dir {FOLDER}",
        gains=False, ask=(b"PING\r\n", b"+PONG"), reload=BGSAVE),
    **dict(gunicorns()),
    "uvicorn": server(f"uvicorn --app-dir {FOLDER} --workers 4 --host 127.0.0.1 --port {PORT} "
                      "--backlog 512 --log-level warning conf:app", ASGI),
    **dict(uwsgis()),
    "Node cluster": server(f"node {CONF}", NODE, False, reload=HUP),
    "Node cluster, SCHED_NONE": server(f"node {CONF}", NODE, reload=HUP,
                                       unit="-E NODE_CLUSTER_SCHED_POLICY=none"),
    **dict(php_fpms()),
    "PostgreSQL": server(
        "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -p "
        f"{PORT} -c config_file=/etc/postgresql/15/main/postgresql.conf -c hba_file={CONF} "
        "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c external_pid_file= "
        "-c ssl=off -c max_connections=300", "host all all 127.0.0.1/32 trust\n", False,
        ask=postgres(), reload=HUP, unit="-p User=postgres"),
    "systemd-socket-activate": server(
        f"systemd-socket-activate -l 127.0.0.1:{PORT} {{run}}python3 {CONF}", ASYNCIO),
    "Python socketserver": server(f"python3 {CONF}", SOCKETSERVER, False),
    "Python asyncio": server(f"python3 {CONF}", ASYNCIO),
    "Go, static": server(f"{HERE}/go_server", gains=False),
    "demo, MPTCP": server(f"mptcpize run {{run}}fsbench-server {DEMO}", gains=False),
    "demo, valgrind": server(f"valgrind -q --trace-children=yes fsbench-server {DEMO}"),
    # A library can be preloaded into a program with ASan only so.
    "demo, ASan": server(f"{HERE}/server-asan {DEMO}", unit="-E LD_PRELOAD=libasan.so.8"),
}
