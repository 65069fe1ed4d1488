"""The contract of each route, the models of bodies and answers, and the OpenAPI document made from them."""
