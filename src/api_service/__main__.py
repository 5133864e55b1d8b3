"""The gateway on S2S_HOST and S2S_PORT: python -m api_service"""

import uvicorn

from api_service.api.protocol import options
from s2s.config import settings

if __name__ == "__main__":
    config = settings()
    uvicorn.run("api_service.api.service:create_app", factory=True, host=config.host, port=config.port, **options())
