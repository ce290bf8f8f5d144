# SPDX-License-Identifier: GPL-2.0-only
"""The hosts of a sweep: one server, and one load generator or several, which start together."""
import concurrent.futures
import shlex
import subprocess
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The time limit until a generator is ready to start, s.
READY_S = 30


class RunError(Exception):
    """The reason for which the run cannot go on, in one sentence."""


class LoadError(RunError):
    """The reason for which one repetition is invalid; the run goes on."""


def end(process):
    """Ends a command by SIGTERM first: the command is timeout(1), which then ends all that it has
    started, so that no load outlives a sweep."""
    process.terminate()
    try:
        process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, ValueError):
        process.kill()


def run_to_the_end(argv, script, limit):
    """Does what subprocess.run() does; when interrupted it ends the command by end()."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(script, timeout=limit)
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


class Host:
    """Runs one of our scripts on a host, without installing it there."""

    def __init__(self, name, argv, script):
        self.name = name
        self.argv = argv
        self.script = (HERE / "host.sh").read_bytes() + (HERE / script).read_bytes()

    def command(self, words, limit):
        """The words that run the script, which has to be their standard input; timeout ends it
        with all that it has started, also on another host."""
        return [*self.argv, shlex.join(["exec", "timeout", "-k", "5", str(limit), "bash", "-s",
                                        "--", *map(str, words)])]

    def run(self, *words, limit=60, failure=RunError, what=None):
        """Returns standard output; raises failure if the script fails or takes too long. limit: s.

        what: the name of the step in messages; default: the first word.
        """
        what = what or words[0]
        try:
            done = run_to_the_end(self.command(words, limit), self.script, limit + 15)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{self.name}: {what} did not end within {limit} s") from error
        except OSError as error:
            raise RunError(f"{self.name} cannot be reached: {error}") from error
        return self.judged(done, what, limit, failure)

    def judged(self, done, what, limit, failure):
        """The output of a command that has ended; raises an exception if it failed."""
        if done.returncode in (124, 137):
            raise failure(f"{self.name}: {what} did not end within {limit} s")
        if done.returncode:
            # 255 is a failure of ssh itself: the host is gone, which ends the run.
            if done.returncode == 255:
                failure = RunError
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise failure(f"{self.name}: {what} failed: "
                          f"{'; '.join(lines[-3:]) or f'exit status {done.returncode}'}")
        return done.stdout

    def facts(self, *words):
        """What the script's facts prints, by name; what the host cannot tell is left out."""
        lines = self.run("facts", *words).decode().splitlines()
        found = (line.partition(" ")[::2] for line in lines)
        return {name: value.strip() for name, value in found if value.strip()}


class Generators:
    """The load generators. All of them apply load. The first one also runs the backend of proxies,
    and answers questions that concern one host only."""

    def __init__(self, argvs):
        """argvs: for each host the words that run one shell command there."""
        self.hosts = [Host(f"the load generator {number}" if len(argvs) > 1 else
                           "the load generator", argv, "load.sh")
                      for number, argv in enumerate(argvs, 1)]
        self.run = self.hosts[0].run

    def facts(self, *words):
        """Returns a list with the facts, by name, of each host."""
        return [host.facts(*words) for host in self.hosts]

    def together(self, words, limit, failure=LoadError, what=None):
        """Runs the words[i] on host i, on all at one time; returns a list of what they print.

        Each script reports that it is ready, and waits for a word that all get at once. So the
        loads begin at the same time but for the way of the word, however long logins take.
        """
        if len(self.hosts) == 1:
            return [self.hosts[0].run(*words[0], limit=limit, failure=failure, what=what)]
        what = what or words[0][0]
        processes = []
        try:
            for host, own in zip(self.hosts, words):
                processes.append(self.started(host, own, limit))
            for host, process in zip(self.hosts, processes):
                self.await_ready(host, process, failure)
            with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
                ended = [pool.submit(process.communicate, b"go\n", limit + READY_S + 15)
                         for process in processes]
                try:
                    outputs = [one.result() for one in ended]
                except BaseException:
                    for process in processes:
                        process.terminate()
                    raise
        except subprocess.TimeoutExpired as error:
            raise RunError(f"a load generator: {what} did not end within {limit} s") from error
        finally:
            for process in processes:
                if process.poll() is None:
                    end(process)
        return [host.judged(subprocess.CompletedProcess(host.argv, process.returncode, *output),
                            what, limit, failure)
                for host, process, output in zip(self.hosts, processes, outputs)]

    def started(self, host, words, limit):
        """Starts the script on the host, where it reports that it is ready; returns its process."""
        try:
            process = subprocess.Popen(
                host.command(["ready", *words], limit + READY_S), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise RunError(f"{host.name} cannot be reached: {error}") from error
        try:
            process.stdin.write(host.script)
            process.stdin.flush()
        except BrokenPipeError:
            pass    # The reason is on its standard error.
        return process

    def await_ready(self, host, process, failure):
        watchdog = threading.Timer(READY_S, process.kill)
        watchdog.start()
        try:
            if process.stdout.readline() == b"ready\n":
                return
        finally:
            watchdog.cancel()
        try:
            _, err = process.communicate(timeout=5)
        except (subprocess.TimeoutExpired, OSError):
            err = b""
        host.judged(subprocess.CompletedProcess(host.argv, process.wait(), b"", err),
                    "start", READY_S, failure)
        raise failure(f"{host.name}: it did not become ready to start")
