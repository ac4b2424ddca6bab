# One image for all roles:  docker build -t agent-system .
# A whole fleet in one container runs the example:  docker run agent-system   (-e REDIS_HOST=… for a Redis of yours)
# compose.yaml has a fleet of containers.
FROM python:3.11-slim

WORKDIR /app
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY a2a_zmq a2a_zmq
COPY daemons daemons
COPY config config
RUN pip install --no-cache-dir .
COPY examples examples

# Keys, spools and the files of an embedded server; all agents of a fleet share the keys.
RUN useradd --system --home-dir /var/lib/a2a-zmq --create-home a2a-zmq && chmod 0700 /var/lib/a2a-zmq
ENV A2A_STATE_DIR=/var/lib/a2a-zmq A2A_LOG_FORMAT=json
VOLUME /var/lib/a2a-zmq
USER a2a-zmq

CMD ["python", "examples/example_e2e.py"]
