from ulcodec_cli.main import app

app(prog_name="ulcodec")
