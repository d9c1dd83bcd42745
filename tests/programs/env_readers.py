# Reads env files with every reader that is installed, and prints a JSON object of what each has read.
#   quoted FILE...   each reader: for each file [KEY, ZZZ], or null where it gave up
#   bare FILE        each reader: the variables that a container would get
import glob, http.server, json, os, shutil, socketserver, subprocess, sys, tempfile, threading

scratch = tempfile.mkdtemp()
os.environ['LC_ALL'] = 'C.UTF-8'


def output(*command, **environment):
    ran = subprocess.run(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    if ran.returncode:
        raise OSError(f'{command[0]}: {ran.stderr.decode(errors="replace")[-200:]}')
    return ran.stdout


def works(*command, **environment):
    try:
        output(*command, **environment)
        return True
    except (OSError, subprocess.TimeoutExpired):
        return False


# A reader that reads all files in one process prints a JSON value for each, a line each.
def lines(*command, **environment):
    def read(files):
        return [json.loads(line) for line in output(*command, *files, **environment).splitlines()]
    return read


# A reader that is a process for each file.
def each(parse):
    def read(files):
        def one(file):
            try:
                variables = parse(file)
                return [variables.get('KEY'), variables.get('ZZZ')]
            except (OSError, ValueError):
                return None
        return [one(file) for file in files]
    return read


def shell(*shell):
    def parse(file):
        variables = output(*shell, '-c', 'set -a; . "$1"; exec env -0', 'sh', file).decode()
        return dict(pair.split('=', 1) for pair in variables.split('\0') if pair)
    return each(parse)


SYSTEMD = '''
import ctypes, json, sys
systemd = ctypes.CDLL(sys.argv[1])
for file in sys.argv[2:]:
    pairs, at, variables = ctypes.POINTER(ctypes.c_char_p)(), 0, {}
    if systemd.load_env_file(None, file.encode(), ctypes.byref(pairs)) < 0: print('null'); continue
    while pairs and pairs[at]:
        name, value = pairs[at].decode().split('=', 1)
        variables[name] = value
        at += 1
    print(json.dumps([variables.get('KEY'), variables.get('ZZZ')]))
'''
PYTHON = '''
import dotenv, json, logging, sys
logging.disable()
for file in sys.argv[1:]:
    variables = dotenv.dotenv_values(file)
    print(json.dumps([variables.get('KEY'), variables.get('ZZZ')]))
'''
NODE = '''
const fs = require("fs"), parse = MODULE;
for (const file of process.argv.slice(1)) {
    const variables = parse(fs.readFileSync(file, "utf8"));
    console.log(JSON.stringify([variables.KEY ?? null, variables.ZZZ ?? null]));
}
'''
RUBY = '''
require "dotenv"; require "json"
ARGV.each do |file|
    variables = Dotenv::Parser.call(File.read(file, encoding: "UTF-8"), true) rescue nil
    puts JSON.generate(variables && [variables["KEY"], variables["ZZZ"]])
end
'''
PHP = '''
foreach (array_slice($argv, 1) as $file) {
    try { $v = PARSE; echo json_encode([$v["KEY"] ?? null, $v["ZZZ"] ?? null]), "\\n"; }
    catch (Exception $e) { echo "null\\n"; }
}
'''
GO = '''
package main
import ("encoding/json"; "fmt"; "os"; "github.com/joho/godotenv")
func main() {
    for _, file := range os.Args[1:] {
        m, err := godotenv.Read(file)
        if err != nil { fmt.Println("null"); continue }
        b, _ := json.Marshal([]string{m["KEY"], m["ZZZ"]})
        fmt.Println(string(b))
    }
}
'''


def quoted_readers():
    shells = [[name] for name in ('sh', 'dash', 'bash', 'zsh', 'ksh', 'mksh', 'yash', 'posh')] + [['busybox', 'sh']]
    for command in shells:
        if shutil.which(command[0]):
            yield ' '.join(command), shell(*command)
    folders = ('/usr/lib/*/systemd', '/usr/lib/systemd', '/usr/lib64/systemd')
    for library in [path for folder in folders for path in glob.glob(f'{folder}/libsystemd-shared-*.so')][:1]:
        yield 'systemd', lines('python3', '-c', SYSTEMD, library)
    path = os.environ.get('DOTENV', '')
    if works('python3', '-c', 'import dotenv', PYTHONPATH=path):
        yield 'python-dotenv', lines('python3', '-c', PYTHON, PYTHONPATH=path)
    for name, module in [('node', 'require("util").parseEnv'), ('node dotenv', 'require("dotenv").parse')]:
        if shutil.which('node') and output('node', '-p', f'try {{ typeof {module} }} catch {{}}').strip() == b'function':
            yield name, lines('node', '-e', NODE.replace('MODULE', module))
    if works('ruby', '-e', 'require "dotenv"'):
        yield 'ruby dotenv', lines('ruby', '-e', RUBY)
    for name, folder, parse in [
        ('php dotenv', 'Dotenv', 'Dotenv\\Dotenv::parse(file_get_contents($file))'),
        ('php symfony', 'Symfony/Component/Dotenv',
         '(new Symfony\\Component\\Dotenv\\Dotenv())->parse(file_get_contents($file))'),
    ]:
        load = f'require "/usr/share/php/{folder}/autoload.php";'
        if works('php', '-r', load):
            yield name, lines('php', '-r', load + PHP.replace('PARSE', parse), '--')
    if shutil.which('direnv'):
        yield 'direnv', each(lambda file: json.loads(output('direnv', 'dotenv', 'json', file)))
    source, binary = f'{scratch}/main.go', f'{scratch}/godotenv'
    with open(source, 'w') as file:
        file.write(GO)
    go = {'GO111MODULE': 'off', 'GOPATH': '/usr/share/gocode'}
    if os.path.isdir('/usr/share/gocode/src/github.com/joho/godotenv') and works('go', 'build', '-o', binary, source, **go):
        yield 'go godotenv', lines(binary)


# The CLI asks a server, which need not be Docker's to show what it was asked for.
def docker(file):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def answer(self, body):
            body = json.dumps(body).encode()
            self.send_response(201 if self.command == 'POST' else 200)
            self.send_header('Api-Version', '1.41')
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(body)

        def do_GET(self): self.answer({})

        def do_HEAD(self): self.answer({})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            asked.extend(body['Env'])
            self.answer({'Id': 'a', 'Warnings': []})

        def address_string(self): return ''

        def log_message(self, *_): pass

    socket = f'{scratch}/docker.sock'
    with socketserver.ThreadingUnixStreamServer(socket, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output('docker', 'create', '--env-file', file, 'image', DOCKER_HOST=f'unix://{socket}')
        server.shutdown()
    return dict(pair.split('=', 1) for pair in asked)


def podman(file):
    store = [f'--root={scratch}/podman', f'--runroot={scratch}/podman-run', '--storage-driver=vfs']
    os.makedirs(f'{scratch}/rootfs', exist_ok=True)
    name = output('podman', *store, 'create', '--env-file', file, '--rootfs', f'{scratch}/rootfs', 'true').decode().strip()
    inspected = json.loads(output('podman', *store, 'inspect', name))
    output('podman', *store, 'rm', name)
    return dict(pair.split('=', 1) for pair in inspected[0]['Config']['Env'])


try:
    if sys.argv[1] == 'quoted':
        read = {name: reader(sys.argv[2:]) for name, reader in quoted_readers()}
    else:
        read = {reader.__name__: reader(sys.argv[2]) for reader in (docker, podman)
                if shutil.which(reader.__name__) and (reader is docker or os.getuid() == 0)}
    print(json.dumps(read))
finally:
    shutil.rmtree(scratch, ignore_errors=True)
