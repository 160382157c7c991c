"""The http target beside a closed loop of aiohttp, against the same service."""
