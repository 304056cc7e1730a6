from .run import (
    Asked as Asked,
    Service as Service,
    open_service as open_service,
    serve as serve,
)
