"""The contract of each route, the models of request and response bodies, and the OpenAPI document made from them."""
